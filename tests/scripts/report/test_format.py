"""Numbers, texts and curves as a terminal shows them."""

import pytest

from scripts.report.format import number, one_line, printable
from scripts.report.plot import plot


def test_the_plot_puts_points_where_they_belong():
    lines = [line.plain for line in plot([(0, 4.0), (10, 2.0)], {"v": [(5, 3.0)]}, width=30, height=5, label="step")]
    assert len(lines) == 7
    assert {len(line) for line in lines[:6]} == {30}
    assert lines[0].startswith("4.00 │⠁")
    assert lines[4].endswith("⢀"), lines[4]
    assert lines[2].index("v") == pytest.approx(6 + 23 / 2, abs=1)
    assert lines[6].split() == ["0", "step", "10"]


def test_the_plot_leaves_out_what_is_not_finite():
    points = [(0, float("nan")), (1, 1.0), (2, None), (3, float("inf"))]
    lines = [line.plain for line in plot(points, {"v": []}, width=20, height=3, label="step")]
    assert sum(character > "⠀" and character <= "⣿" for line in lines for character in line) == 1
    assert [line.plain.strip() for line in plot([], {"v": []}, 20, 3, "step")] == ["nothing measured yet"]


def test_text_shown_in_a_terminal_cannot_act_on_it():
    assert printable("a\x1b]0;title\x07b\r\x9b1mc\u202ed\u200be\nf\tg") == (
        r"a\x1b]0;title\x07b\r\x9b1mc\u202ed\u200be" + "\nf\tg"
    )
    assert printable("żółć 漢字 🎈 [red]") == "żółć 漢字 🎈 [red]"
    assert one_line("a\n\n  b\tc" + " x" * 100, 8) == "a b c x…"


@pytest.mark.parametrize(
    ("value", "column", "shown"),
    [
        (0.1234567, "mean_score", "0.1235"), (0.5, "pick_rate", "50.0 %"), (12345, "sample_id", "12345"),
        (12345, "candidates", "12,345"), (5.0, "offered", "5"), (2.5, "val_loss", "2.5000"), (None, "loss", "–"),
        (float("nan"), "loss", "nan"), (-0.05, "change", "-5.0 pp"), (1.5, "seconds_per_step", "1.5"),
    ],
)  # fmt: skip
def test_numbers_are_shown_as_their_column_wants(value, column, shown):
    assert number(value, column) == shown
