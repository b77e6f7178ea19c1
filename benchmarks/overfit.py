"""Whether a model can memorize a few images, as a test of the whole training: loss, loop, evaluation.

    python benchmarks/overfit.py DATASET [--model Mask-RT-DETR-S] [--images 8] [--side 320] [--epochs 400]
        [--batch-size 4] [--learning-rate 5e-4] [--clip-norm G] [--weights scratch] [--points 3136]
        [--grids 20,18,12,8,6] [--output output/overfit]

The images with the fewest objects of the train split are used for training, from scratch and without augmentation, and
for evaluation. Prints mask AP after each tenth of the run. With the weights of such a run, training continues as in
fine-tuning, with the recipe's frozen layers.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from maskline import catalog
from maskline.data.dataset import Dataset, ImageRecord
from maskline.data.formats import coco
from maskline.data.reading import load_splits
from maskline.models.mask_rtdetr import network
from maskline.models.mask_rtdetr.loss import LossConfig
from maskline.models.solov2 import network as solov2
from maskline.training import TrainSettings, checkpoint, train
from maskline.training.augment import Augment

SMALLEST = 0.01  # minimum area of all objects, relative to the image


def chosen(dataset: Dataset, number: int) -> list[ImageRecord]:
    """The images with the fewest objects, without crowds and tiny objects."""

    def objects(image: ImageRecord) -> int:
        return len(dataset.instances(image))

    def plain(image: ImageRecord) -> bool:
        annotations = dataset.of(image)
        sizes = [mask.sum() / (image.width * image.height) for mask in dataset.instances(image).masks]
        return not any(a.crowd for a in annotations) and min(sizes, default=0) > SMALLEST

    return sorted(filter(plain, dataset.images), key=objects)[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="Mask-RT-DETR-S")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--clip-norm", type=float, help="maximum gradient norm")
    parser.add_argument("--weights", default="scratch", help="initial weights")
    parser.add_argument("--points", type=int, default=3136, help="points of Mask-RT-DETR's mask loss")
    parser.add_argument("--grids", help="grids of SOLOv2, coarser for small images: 40,36,24,16,12 are for 800 pixels")
    parser.add_argument("--output", type=Path, default=Path("output/overfit"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    spec = catalog.get(arguments.model)
    square = replace(spec.preprocess, height=arguments.side, width=arguments.side)  # that the image fills or fits into
    catalog.MODELS[spec.name] = replace(spec, preprocess=square)
    if spec.name in network.CONFIGS:
        loss = LossConfig(num_points=arguments.points)
        network.CONFIGS[spec.name] = replace(network.CONFIGS[spec.name], loss=loss)
    if arguments.grids is not None:
        grids = tuple(map(int, arguments.grids.split(",")))
        solov2.CONFIGS[spec.name] = replace(solov2.CONFIGS[spec.name], num_grids=grids)
    dataset = load_splits(arguments.data)["train"]
    few = dataset.select(chosen(dataset, arguments.images))
    data = arguments.output / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    coco.write({"train": few, "val": replace(few, split="val")}, data)
    settings = TrainSettings(
        model=spec.name,
        data=data,
        output=arguments.output / "run",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        clip_norm=arguments.clip_norm,
        weights=arguments.weights,
        augment=asdict(Augment(flip=0)),
        eval_interval=max(arguments.epochs // 10, 1),
        workers=0,
        export=False,
    )
    train(settings)
    print("| epoch | mask AP | AP50 | box AP |\n|---:|---:|---:|---:|")
    for entry in checkpoint.read(settings.output / checkpoint.FINAL).history:
        print(f"| {entry['epoch'] + 1} | {entry['AP']:.3f} | {entry['AP50']:.3f} | {entry['bbox_AP']:.3f} |")


if __name__ == "__main__":
    main()
