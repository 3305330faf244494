"""``python -m cnsn.checkpoint convert PATH OUT.safetensors``."""

from __future__ import annotations

import argparse
import sys

from cnsn.checkpoint import convert


def main(arguments: list[str] | None = None) -> None:
    """The command line; an error is one sentence."""
    parser = argparse.ArgumentParser(prog="python -m cnsn.checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "convert",
        help="write a checkpoint's weights as safetensors",
        description="Write the weights of a checkpoint as safetensors: no pickle, nothing but "
        "tensors. Optimiser, epoch and accuracy are left out.",
    )
    command.add_argument("path", help="a checkpoint of torch.save, such as an official one")
    command.add_argument("out", help="the new file, ending in .safetensors")
    args = parser.parse_args(arguments)
    try:
        state = convert(args.path, args.out)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    values = sum(tensor.numel() for tensor in state.values())
    print(f"{args.out}: {len(state)} tensors, {values:,} values")


if __name__ == "__main__":
    main()
