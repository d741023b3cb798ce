"""What a training run shows on the terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A bar with the steps' rate and time left; evaluations stay on the screen as lines. Silent on other ranks."""

    def __init__(self, console: Console, steps: int, run):
        self._run = run
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.2f} steps/s, left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not run.world.leads)
        self._task = self._bar.add_task("training", total=steps, completed=run.step, rate=0.0)
        self._began = run.seconds, run.step

    def __enter__(self):
        self._bar.start()
        return self._advance

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def _advance(self, measured: dict[str, float]) -> None:
        run, (seconds, step) = self._run, self._began
        if "val_loss" in measured:
            if not run.world.leads:
                return
            self._bar.console.print(
                f"step {run.step:>6}  val {measured['val_loss']:.4f}  test {measured['test_loss']:.4f}  "
                f"{run.seconds:8.1f} s",
                highlight=False,
            )
            return
        rate = (run.step - step) / max(run.seconds - seconds, 1e-9)
        self._bar.update(self._task, completed=run.step, rate=rate, description=f"loss {measured['train_loss']:.3f}")
