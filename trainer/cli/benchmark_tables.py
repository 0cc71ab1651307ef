"""The figures of `adatt bench` as tables."""

import statistics
from typing import Any

from rich.table import Table

Record = dict[str, Any]


def head_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench heads`."""
    threads = results[0]["threads"]
    rate = results[0]["matmul_flops_per_second"]
    table = Table(title=f"heads, forward + backward; {threads} threads, products at {rate / 1e9:.0f} GFLOP/s")
    table.add_column("head")
    names = (
        "batch",
        "tasks",
        "experts per task",
        "shared",
        "in all",
        "samples/s",
        "loop",
        "speed-up",
        "of product rate",
        "loop's",
    )

    for name in (*names, "parameters", "MFLOP/sample", "MiB"):
        table.add_column(name, justify="right")

    for result in results:
        table.add_row(result["head"], *_head_cells(result))

    return table


def _head_cells(result: Record) -> list[str]:
    sizes = [f"{result[key]:,}" for key in ("batch", "tasks")]
    experts = [str(result[key] or "–") for key in ("task_experts", "shared_experts", "experts")]
    rates = [f"{result[key]:,.0f}" for key in ("samples_per_second", "loop_samples_per_second")]
    fractions = [f"{result[key]:.1%}" for key in ("matmul_fraction", "loop_matmul_fraction")]

    megaflops = f"{result['flops_per_sample'] / 1e6:.2f}"
    mebibytes = f"{result['peak_bytes'] / 2**20:,.0f}"
    cost = [f"{result['parameters']:,}", megaflops, mebibytes]

    return [*sizes, *experts, *rates, f"{result['speedup']:.2f}", *fractions, *cost]


def balance_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench balance`."""
    rate = statistics.median(result["matmul_flops_per_second"] for result in results)
    threads = results[0]["threads"]
    table = Table(title=f"a step, x a constant one; {threads} threads, products at {rate / 1e9:.0f} GFLOP/s")
    table.add_column("method")
    table.add_column("head")
    for name in ("tasks", "batch", "ms", "x constant", "in CPU time", "limit", "naive", "own, ms"):
        table.add_column(name, justify="right")

    for result in results:
        ratios = [result[key] for key in ("of_constant", "cpu_of_constant", "limit_of_constant", "naive_of_constant")]
        sizes = [f"{result[key]:,}" for key in ("tasks", "batch")]
        milliseconds = f"{result['step_seconds'] * 1e3:,.1f}"
        cells = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        own = "–" if result["own_seconds"] is None else f"{result['own_seconds'] * 1e3:.2f}"
        table.add_row(result["method"], result["head"], *sizes, milliseconds, *cells, own)

    return table


def data_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench data`."""
    table = Table(title="reading batches, million rows/s; raw: Arrow's decoding of the same columns on one thread")
    for name in ("data", "order"):
        table.add_column(name)
    for name in ("threads", "M rows/s", "raw", "of raw", "of one thread", "plain loop", "of it", "DataLoader", "of it"):
        table.add_column(name, justify="right")
    for name in ("read", "decode", "gather"):
        table.add_column(f"{name}, µs a row", justify="right")

    for result in results:
        rates = [f"{result[f'{key}rows_per_second'] / 1e6:.3f}" for key in ("", "raw_", "loop_", "dataloader_")]
        of_raw, of_one, of_loop, of_loader = (
            f"{result[key]:.2f}" for key in ("fraction_of_raw", "of_one_thread", "of_loop", "of_dataloader")
        )
        stages = [f"{result[f'{stage}_microseconds']:.2f}" for stage in ("read", "decode", "gather")]
        cells = [rates[0], rates[1], of_raw, of_one, rates[2], of_loop, rates[3], of_loader]
        table.add_row(result["schema"], result["order"], str(result["threads"]), *cells, *stages)

    return table


def _part_rows(result: Record) -> dict[str, str]:
    """The parts of a step, and which of them takes longest."""

    def milliseconds(key: str) -> str:
        return f"{result[key] * 1e3:,.1f} ms"

    return {
        "a step's parts, each alone": f"longest: {result['bottleneck']}",
        "  reading": milliseconds("reading_seconds"),
        "  lookup of embeddings": milliseconds("lookup_seconds"),
        "    limit: their bytes at the rate of a copy": milliseconds("lookup_limit_seconds"),
        "  update of embeddings": milliseconds("update_seconds"),
        "    limit: their bytes, read and written": milliseconds("update_limit_seconds"),
        "  exchange, inside both: as an all-to-all": milliseconds("exchange_limit_seconds"),
        "  head": milliseconds("head_seconds"),
        "    limit: its products": milliseconds("head_limit_seconds"),
    }


def bench_table(result: Record) -> Table:
    """The figures of `adatt bench train`."""
    table = Table(title=f"training on {result['world_size']} ranks, {result['threads']} threads each")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = {
        "samples/s": f"{result['samples_per_second']:,.0f}",
        "step": f"{result['step_seconds'] * 1e3:,.1f} ms",
        "waiting for data": f"{result['data_wait_fraction']:.1%}",
        "head, forward + backward": f"{result['head_flops_per_sample'] / 1e6:,.2f} MFLOP/sample",
        "matrix-product rate per rank": f"{result['matmul_flops_per_second'] / 1e9:,.1f} GFLOP/s",
        "bound: head at that rate": f"{result['bound_samples_per_second']:,.0f} samples/s",
        "reached of the bound": f"{result['fraction_of_bound']:.1%}",
        **_part_rows(result),
        "checkpoint": f"{result['checkpoint_bytes'] / 2**20:,.0f} MiB in {result['checkpoint_seconds']:,.2f} s",
        "  training waits for it": f"{result['checkpoint_stall_seconds'] * 1e3:,.1f} ms",
        "  limit: a plain copy": f"{result['checkpoint_copy_seconds'] * 1e3:,.1f} ms",
        "  slower steps while it is written": f"{result['checkpoint_slowdown_seconds'] * 1e3:,.1f} ms in all",
        "evaluation": f"{result['evaluation_samples_per_second']:,.0f} samples/s",
        "  limit: forward pass alone": f"{result['forward_samples_per_second']:,.0f} samples/s",
        "peak memory per process": f"{result['peak_bytes'] / 2**20:,.0f} MiB",
    }

    for name, value in rows.items():
        table.add_row(name, value)

    return table


def serving_bench_table(results: list[Record]) -> Table:
    """The figures of `adatt bench serving`."""
    table = Table(title=f"milliseconds a call: median (99 of 100); {results[0]['threads']} threads")
    table.add_column("rows", justify="right")
    columns = {
        "inputs": "raw rows to inputs",
        "trained": "trained model",
        "float32": "export, float32",
        "float16": "float16",
        "int8": "int8",
    }
    for heading in (*columns.values(), "head's products", "rows/s, float32"):
        table.add_column(heading, justify="right")
    for result in results:
        cells = [
            f"{1e3 * result[f'{name}_seconds']:.2f} ({1e3 * result[f'{name}_seconds_99']:.2f})" for name in columns
        ]
        cells += [f"{1e3 * result['limit_seconds']:.3f}", f"{result['rows'] / result['float32_seconds']:,.0f}"]
        table.add_row(f"{result['rows']:,}", *cells)
    return table
