"""What the sentences on speed call the first time is the first time."""

from __future__ import annotations

from benchmarks.reports.speed import speed


def test_the_first_read_is_not_that_of_a_file_out_of_memory() -> None:
    rows = [
        {"data": data, "what": what, "wall": 2.0, "wall_ratio": 3.0, "wall_ratio_float64": 4.0}
        for data in ("adapters", "synthetic, width 4096, 2 modules")
        for what in ("merge", "lorashare", "peft svd")
    ]
    rows += [
        {"data": "adapters", "what": f"read back: {what}", "cpu_mnps": mnps}
        for what, mnps in (("first", 3.6), ("opened", 49.0), ("cold", 14.2))
    ]
    rows.append({"data": "adapters", "what": "memory", "peak_less_inputs_mib": 252.0})
    text = speed({"rows": rows})
    assert "49 million numbers a second on one core once the bundle is open" in text
    assert "at 14 million where it is opened for that" in text
    assert "at 4 million the first time in a process" in text
