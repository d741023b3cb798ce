"""How well Taylor's formula foresees what training steps do to the target loss."""
