"""The harness of others (lm-eval, the extra of this name) on an exported folder, with a task of local files.

Its accuracy is the one that `scripts.evaluate` finds. Slow, and left out where the harness is not installed.
"""

import json

import pytest

from scripts.evaluate import tasks
from scripts.evaluate.__main__ import main
from scripts.export import main as export
from tests.helpers.networks import write_network
from tests.helpers.runs import run
from tests.pipeline.corpora.conversations.examples import FILES, write_task

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

TASK = """
task: letters
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "<|user|>\\n{{{{prompt}}}}\\n<|assistant|>\\n"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""


def test_an_exported_folder_gets_the_same_accuracy_there(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base = write_network(tmp_path / "base", "Llama", dataset, positions=700)
    settings = {"model__kind": "hf", "model__path": base, "train__steps": 2, "train__learning_rate": 2e-2}
    folder = run(dataset, tmp_path / "run", **settings)
    assert export([str(folder), str(tmp_path / "model")]) == 0
    path = write_task("mmlu", tmp_path / FILES["mmlu"], copies=4)
    items = list(tasks.TASKS["mmlu"].items(str(path), "x", "sociology"))
    records = [{"prompt": item.prompt, "answer": "ABCD".index(item.answers[0])} for item in items]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "letters.yaml").write_text(TASK.format(file=tmp_path / "letters.jsonl"))

    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "model"), "dtype": "float32"},
        tasks=["letters"],
        device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    capsys.readouterr()
    assert main([str(tmp_path / "model"), "--task", "mmlu", "--task-files", str(path), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["sources"]["all"]["accuracy"]
    assert 100 * found["results"]["letters"]["acc,none"] == pytest.approx(ours)
