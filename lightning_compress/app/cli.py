"""The command ``lightning-compress``. Nothing here imports torch before a command needs it, so that --help is quick."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from lightning_compress.app.recipe import with_recipe
from lightning_compress.app.shipped import shipped
from lightning_compress.conf import resolvers
from lightning_compress.core.errors import CompressError
from lightning_compress.core.interruption import interruptible
from lightning_compress.core.overrides import check_groups


def run(arguments: Sequence[str]) -> None:
    """Compress a trained network; --help lists the ways.

    Args:
        arguments: what Hydra reads: overrides such as ``+compress=drl_quant``, and options such as ``--config-dir``.
    """
    typed = sys.argv

    def task(cfg: DictConfig) -> dict[str, Any]:
        _announce()
        from lightning_compress.app import main  # torch and lightning load only now

        sys.argv = typed  # what the report shows, and what Lightning starts more processes of a training with
        return main.main(cfg)

    sys.path.append(str(Path.cwd()))  # for own modules; an installed command starts without the current folder
    resolvers.register()
    try:
        check_groups(arguments)
        sys.argv = [typed[0], *with_recipe(arguments)]  # Hydra reads its arguments from nowhere else
        with interruptible():
            hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")(task)()
    except CompressError as error:
        sys.exit(f"error: {error}")
    finally:
        sys.argv = typed


def _announce() -> None:
    """Say at once that a run has begun, for torch takes seconds to load, and let that load without a warning."""
    if "torch" not in sys.modules:
        print("loading torch and lightning ...", file=sys.stderr, flush=True)
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no GPU is no news


def report(arguments: Sequence[str]) -> None:
    """Set finished runs side by side, in the terminal and as one HTML page."""
    from lightning_compress.app.report import compare

    compare.main(arguments)


def layers(arguments: Sequence[str]) -> None:
    """Print what can be done to each layer of the configured network."""
    from lightning_compress.app import layers

    layers.main(arguments)


def export(arguments: Sequence[str]) -> None:
    """Write the network of a finished run for other runtimes: ONNX, TFLite, ExecuTorch."""
    from lightning_compress.app import export_command

    export_command.main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "run": run,
    "report": report,
    "layers": layers,
    "export": export,
}


def main() -> None:
    """Run the command that the first argument names with the arguments after it."""
    parser = argparse.ArgumentParser(
        prog="lightning-compress",
        description="Compress a trained network under a budget.",
        epilog="lightning-compress COMMAND --help says more.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=str(command.__doc__).splitlines()[0], add_help=False)
    COMMANDS[parser.parse_args(sys.argv[1:2]).command](sys.argv[2:])
