"""The ``fm3d`` command: reads the arguments, runs one command, says a user's mistake in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

DESCRIPTION = """3D foundation models a clinician can teach: label a few volumes, train, segment the others.

Start with: fm3d demo. Research use only, not a medical device."""


class Command(Protocol):
    """What every command is: a dataclass of its options that can be run."""

    def run(self) -> None:
        """Do it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, with 2 for a user's mistake, with 130 after Ctrl-C."""
    import tyro

    from fm3d_core.errors import FM3DError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # passive waiting: threads that spin would slow a server and a training down that share the processor
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command: Command = tyro.cli(_commands(), prog="fm3d", description=DESCRIPTION, args=arguments)
        command.run()
    except FM3DError as error:
        sys.stderr.write(f"fm3d: {error}\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("fm3d: stopped\n")
        raise SystemExit(130) from None


def _commands() -> Any:
    """All commands as one type for tyro; importing them imports nothing heavy."""
    from typing import Union

    from tyro.conf import subcommand

    from fm3d_core.cli.adapters import Adapters
    from fm3d_core.cli.compare import Compare
    from fm3d_core.cli.data import Data
    from fm3d_core.cli.demo import DemoSettings
    from fm3d_core.cli.doctor import Doctor
    from fm3d_core.cli.evaluate import Evaluate
    from fm3d_core.cli.features import Features
    from fm3d_core.cli.finetune import Finetune
    from fm3d_core.cli.methods import Methods
    from fm3d_core.cli.predict import Predict
    from fm3d_core.cli.pretrain import Pretrain
    from fm3d_core.cli.probe import Probe
    from fm3d_core.cli.recipes import Recipes
    from fm3d_core.cli.segment import Segment
    from fm3d_core.cli.serve import ServeSettings
    from fm3d_core.cli.visualize import Visualize
    from fm3d_core.cli.weights import Weights

    commands = {
        "demo": DemoSettings,
        "doctor": Doctor,
        "serve": ServeSettings,
        "finetune": Finetune,
        "features": Features,
        "predict": Predict,
        "segment": Segment,
        "evaluate": Evaluate,
        "compare": Compare,
        "probe": Probe,
        "visualize": Visualize,
        "adapters": Adapters,
        "methods": Methods,
        "weights": Weights,
        "data": Data,
        "pretrain": Pretrain,
        "recipes": Recipes,
    }
    return Union[  # noqa: UP007  # built at run time
        tuple(Annotated[command, subcommand(name, prefix_name=False)] for name, command in commands.items())
    ]


if __name__ == "__main__":  # torchrun -m fm3d_core.cli.main
    main()
