"""The output of the speed benchmark: one short table for each timed work."""

from cada_plugin.tables import markdown_table, three_digits

_DESK_WORKERS = 8  # loader workers of a usual training machine


def comparison(result: dict) -> str:
    """The table for a result of ``measure``."""
    counted = bool(result["matrix_flop_per_s"])
    head = ["side", "precision", f"{result['unit']}/s", "ms, median [min, max]"]
    head += ["GFLOP", "GFLOP/s", "of the matrix rate"] * counted + ["peak memory, MB"]
    rows = []
    for name, side in result["sides"].items():
        times = (1000 * seconds for seconds in (side["median_s"], min(side["seconds"]), max(side["seconds"])))
        row = [name, side["dtype"], _number(side["per_second"]), "{} [{}, {}]".format(*map(_number, times))]
        if counted:
            row += [_number(side[key] / 1e9) for key in ("flop", "flop_per_s")] + [f"{side['of_matrix_rate']:.0%}"]
        rows.append([*row, _number(side["peak_memory_mb"])])
    lines = [result["title"], "", markdown_table(head, rows)]
    for name, ratio in result["ratios"].items():
        lines += ["", f"time of {name} over ours, by {result['unit']}: {_ratio(ratio)} in {result['rounds']} rounds"]
        if result["difference"] is not None:
            rounded = any(side["dtype"] != "float32" for side in result["sides"].values())
            where = " where both compute in float32" if rounded else ""
            lines[-1] += f"; results differ by at most {result['difference']:.1g}{where}"
    if counted:
        rates = (f"{name} {_number(rate / 1e9)} GFLOP/s" for name, rate in result["matrix_flop_per_s"].items())
        lines += ["", f"matrix rate, best of the same rounds: {', '.join(rates)}"]
    return "\n".join(lines)


def load_table(result: dict) -> str:
    """The table for a result of ``load``."""
    workers = result["workers"]
    rates = {number: found["images_per_s"] for number, found in workers.items()}
    rows = [[str(n), _number(rate), _number(rate / max(n, 1))] for n, rate in rates.items()]
    lines = [result["title"], "", markdown_table(["workers", "images/s", "images/s of each"], rows), ""]
    need, most = result["training"]["images_per_s"], max(rates)
    each = rates[most] / max(most, 1)
    lines.append(f"{result['training']['title']}: takes {_number(need)} images/s")
    if most < _DESK_WORKERS:
        have = f"{_DESK_WORKERS} workers, each as fast as here, give {_number(_DESK_WORKERS * each)}"
    else:
        have = f"{most} workers give {_number(rates[most])}"
    lines.append(f"{have}: {_number(max(most, _DESK_WORKERS) * each / need)} times as many; {need / each:.2g} would do")
    return "\n".join(lines)


def evaluation_table(result: dict) -> str:
    """The table for a result of ``evaluate``."""
    head = ["part", "s"]
    rows = [[part, f"{seconds:.1f}"] for part, seconds in result["seconds"].items()]
    memory = ", ".join(f"{name} {_number(used)}" for name, used in result["peak_memory_mb"].items())
    return "\n".join(
        [result["title"], "", markdown_table(head, rows), "", f"peak memory beyond weights and images, MB: {memory}"]
    )


def _ratio(ratio: dict) -> str:
    return f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"


def _number(value: float | None) -> str:
    return three_digits(value, "unknown")
