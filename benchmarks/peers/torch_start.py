"""A plain torch script with the recipe ``cats_dogs_regularized``, up to its first step.

This is a peer in `startup.py`. It uses torchvision's `ImageFolder` and transforms, a `DataLoader`
and five lines of training, without convlens. It prints one line after the first step.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets
from torchvision.transforms import v2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    transform = v2.Compose(
        [
            v2.Resize((150, 150)),
            v2.RandomAffine(40, (0.2, 0.2), (0.8, 1.2), 0.2),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    dataset = datasets.ImageFolder(args.data / "train", transform)
    loader = torch.utils.data.DataLoader(dataset, batch_size=20, shuffle=True)
    layers, channels = [], 3
    for filters in (32, 64, 128, 128):
        layers += [nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    layers += [nn.Flatten(), nn.Dropout(0.5), nn.Linear(6272, 512), nn.ReLU(), nn.Linear(512, 1)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, alpha=0.9, eps=1e-7)
    objective = nn.BCEWithLogitsLoss()
    for images, labels in loader:
        optimizer.zero_grad()
        objective(model(images)[:, 0], labels.float()).backward()
        optimizer.step()
        print("first step", flush=True)
        return


if __name__ == "__main__":
    main()
