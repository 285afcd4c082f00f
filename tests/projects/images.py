"""Projects of images: autoencoder, U-Net, backbone fine-tuning, super-resolution, keypoints, third-party networks."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from contract import Project, Rows, Supervised
from torch import Tensor, nn

from lightning_compress.distillation.logit_mse import LogitMSE


def block(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class HydraClassifier(Supervised):
    """Module of lightning-hydra-template: the network and the optimizer are given."""

    def __init__(self, net: nn.Module, optimizer, compile: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["net"])
        self.net, self.criterion = net, nn.CrossEntropyLoss()

    def loss(self, batch):
        x, y = batch
        return self.criterion(self.net(x), y)

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


def adam(params):
    return torch.optim.Adam(params, 1e-3)


class DenseNet(nn.Module):
    """The template's network for digits."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 16, 16)
        layers = [[nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()] for a, b in pairwise(sizes)]
        self.model = nn.Sequential(*(layer for part in layers for layer in part), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


class AutoEncoder(Supervised):
    """Two networks beside each other; what it learns is its input."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))
        self.decoder = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))

    def loss(self, batch):
        x = batch[0].flatten(1)
        return F.mse_loss(self(x), x)


class UNet(nn.Module):
    """Two levels with a concatenated skip and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = block(1, 8), block(8, 16), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join, self.head = block(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.head(self.join(torch.cat([self.up(self.deep(F.max_pool2d(skip, 2))), skip], 1)))


class Segmentation(Supervised):
    """Pixels in a dict."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, batch):
        return F.cross_entropy(self.net(batch["image"]), batch["mask"])


class FineTuning(Supervised):
    """A frozen backbone, kept in eval mode, and a head that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = (
            nn.Sequential(block(1, 8), block(8, 16, 2), nn.AdaptiveAvgPool2d(1)),
            nn.Linear(16, 4),
        )
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            features = self.backbone(x).flatten(1)
        return self.head(features)

    def loss(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])


class SuperResolution(Supervised):
    """Residual blocks and PixelShuffle, on images that the step makes small."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body = nn.Conv2d(1, 8, 3, padding=1), nn.ModuleList(block(8, 8) for _ in range(2))
        self.up, self.last = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.PixelShuffle(2)), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for each in self.body:
            x = x + each(x)
        return self.last(self.up(x))

    def loss(self, batch):
        large = batch[0]
        return F.l1_loss(self(F.avg_pool2d(large, 2)), large)


class Keypoints(Supervised):
    """Heads in a dict, outputs in a dict, targets in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(block(1, 8), block(8, 8))
        self.heads = nn.ModuleDict({"heat": nn.Conv2d(8, 3, 1), "offset": nn.Conv2d(8, 6, 1)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.trunk(x)
        return {name: head(x) for name, head in self.heads.items()}

    def loss(self, batch):
        outputs = self(batch["image"])
        return sum(F.mse_loss(output, torch.zeros_like(output)) for output in outputs.values())


class Backbone(Supervised):
    """Hyperparameters that name a network of timm."""

    def __init__(self, name: str, classes: int = 4) -> None:
        super().__init__()
        import timm

        self.save_hyperparameters()
        self.model = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=1)

    def loss(self, batch):
        return F.cross_entropy(self.model(F.interpolate(batch[0], scale_factor=4)), batch[1])


def smp_unet() -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet("tu-test_resnet", encoder_weights=None, decoder_channels=(16, 8, 8, 8, 8), in_channels=1, classes=2)


def images() -> Rows:
    return Rows(lambda g: (torch.randn(1, 8, 8, generator=g), torch.randint(4, (), generator=g)))


def masks(size: int = 8) -> Rows:
    return Rows(lambda g: {"image": torch.randn(1, size, size, generator=g),
                           "mask": torch.randint(2, (size, size), generator=g)})  # fmt: skip


PROJECTS = {
    "hydra_template": Project(lambda: HydraClassifier(DenseNet(), adam), images),
    "autoencoder": Project(AutoEncoder, images),
    "unet": Project(lambda: Segmentation(UNet()), masks),
    "fine_tuning": Project(FineTuning, images),
    "super_resolution": Project(SuperResolution, images, teaching=LogitMSE()),
    "keypoints": Project(Keypoints, masks, teaching=None),
    "timm": Project(lambda: Backbone("test_efficientnet"), images),
    "smp_unet": Project(lambda: Segmentation(smp_unet()), lambda: masks(32)),
}
