"""The selection log: one row per candidate, rejected ones included, as Parquet files in one folder.

Writing: every rank owns a `SelectionLog` and appends each group it has chosen from. A rank's current file
grows: each flush writes all of its rows anew under a temporary name and renames it over the old one, until
the file holds `FILE_ROWS` rows and the next one begins. So a reader never sees half a file nor a row twice,
and there is no flood of small files and nothing to merge: ten million candidates from 64 ranks make 192.

Reading: any Parquet reader opens the folder; `read_log` and `check_files` set damaged files aside by name.

The quantities of candidate i, with g_i the gradient of its mean token loss and v the direction, in raw units
(no learning rate, no curvature), for all parameters that the run scores:
    loss         mean token loss of the sample before the step, in nats
    first_order  <g_i, v>, the first-order score
    interaction  sum of <g_i, g_j> over the picks j of its group, j not i
    self_norm    |g_i|
    predicted    what a prefilter gave for it, before it was measured; the higher the better, in no unit
    score        what the method ranked it by, the higher the better: one of these quantities, or made of them
Null means "not measured". NaN and infinity are measured values (a loss that diverged) and stay what they are.

Shapes: N candidates in one group.
"""

import pyarrow as pa

QUANTITIES = ("loss", "first_order", "interaction", "self_norm", "predicted", "score")
REJECTED = -1  # the `pick` of a candidate that competed and was not picked
DROPPED = -2  # the `pick` of one that was left out before it was scored
SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("pick", pa.int16(), nullable=False),
        *(pa.field(name, pa.float32()) for name in QUANTITIES),
        pa.field("learning_rate", pa.float32(), nullable=False),
    ]
)
