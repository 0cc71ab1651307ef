"""Cases without harm: hosts train what one host trains."""

from tests.cluster.jobs import Training, expect, meeting
from tests.cluster.site import Site


def same_losses(site: Site, nodes: int, processes: int) -> str:
    """Nodes that meet by c10d train alike with one host of as many ranks."""
    with site.training(nodes) as training:
        for host in range(nodes):
            training.start(host, **meeting(0, str(nodes), PROCESSES=str(processes)))
        end_well(training)
        training.check()
        steps = expect_same_losses(site, training, nodes * processes)
    return f"{steps} losses of {nodes * processes} ranks, the same to the bit"


def end_well(training: Training, within: float = 150) -> None:
    """All launchers end with 0."""
    for node in training.nodes:
        code = node.end(within)
        expect(code == 0, f"{node.name} ended with {code}{training.told()}")


def expect_same_losses(site: Site, training: Training, ranks: int) -> int:
    """How many losses are equal, to the bit: all of them."""
    losses = training.losses()
    expected = site.one_host.losses(ranks)[: len(losses)]
    different = [index for index, (loss, other) in enumerate(zip(losses, expected, strict=True)) if loss != other]
    expect(not different, f"losses differ from one host's at records {different[:5]}")
    return len(losses)
