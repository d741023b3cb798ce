"""From documents to tokens: the tokenizer, where its tokens lie in a text, and parts of a corpus by many processes."""
