"""A sweep over numbers of ranks as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from trainer.planning.plan import Size

_INCHES = (10, 4)


def plot_sweep(sizes: list[Size], path: Path) -> None:
    """Writes a PNG: samples/s beside what it would be if it grew with the ranks, and where a step's time goes."""
    figure = Figure(figsize=_INCHES, layout="constrained")
    rate_axes, part_axes = figure.subplots(1, 2)
    ranks = [size.cluster.size for size in sizes]
    rates = [size.samples_per_second for size in sizes]
    rate_axes.plot(ranks, rates, marker="o", label="predicted")
    rate_axes.plot(ranks, [rates[0] * count / ranks[0] for count in ranks], linestyle=":", label="in proportion")
    rate_axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="samples/s")
    rate_axes.legend()

    labels = [str(count) for count in ranks]
    bottoms = [0.0] * len(sizes)
    for name in sizes[0].parts.as_dict():
        heights = [1e3 * size.parts.as_dict()[name] for size in sizes]
        part_axes.bar(labels, heights, bottom=bottoms, label=name.replace("_", "-"))
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    part_axes.set(xlabel="ranks", ylabel="ms, each part alone")
    part_axes.legend(fontsize="small")

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
