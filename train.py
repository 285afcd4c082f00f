"""Compress a trained network: ``python train.py +compress=drl_quant``. ``--help`` lists the ways."""

import hydra
from omegaconf import DictConfig

from lightning_compress.conf import resolvers

resolvers.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> dict:
    from lightning_compress.app import main  # torch and lightning load only now, so that --help is quick

    return main.main(cfg)


if __name__ == "__main__":
    main()
