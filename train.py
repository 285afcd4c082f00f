"""Compress a trained network: ``python train.py +compress=drl_quant``. ``--help`` lists the ways."""

import sys

from lightning_compress.app import cli

if __name__ == "__main__":
    cli.run(sys.argv[1:])
