"""Make training/*.npz: a run of a small timm ViT under torch's AdamW, step by step.

Needs torch and timm (the files here: torch 2.13.0, timm 1.0.31), which the project itself never does:

    python -m tests.golden.make_training

`meta["doc"]` states the run exactly. A file holds `losses` and `grad_norms` of the steps, float64, and what the network
(`logits`) and its moving average (`ema_logits`) answer after the last one.
"""

from __future__ import annotations

import math

import numpy as np

from tests.golden.fill import image
from tests.golden.making import fill_torch, import_timm, maker, write

DOC = """\
Network: timm's VisionTransformer with the keywords `model`; it starts from `fill`, runs in float32 and drops nothing.
Step i of `steps`, from 0: 16 pictures image((16, 3, 32, 32), "stepI") with the labels (7 k + i) mod 10, k = 0..15;
cross-entropy with label smoothing 0.1; all gradients together clipped to norm 1 (`grad_norms` are those before);
AdamW, betas 0.9 and 0.999, epsilon 1e-8, decay 0.05 but 0 for cls_token, pos_embed and what has one dimension;
learning rate 1e-3 (i + 1) / 5 in the first five steps, then 1e-5 + (1e-3 - 1e-5) (1 + cos(pi (i - 5) / 35)) / 2.
`layer_decay` d, where it is not null: the rate times d ** (depth + 1 - layer) with layer 0 for tokens, positions and
patches, 1.. for the blocks and depth + 1 for norm and head.
The moving average starts at the first weights and after each step is 0.9 times itself plus 0.1 times the new weights.
logits and ema_logits, in evaluation mode, are for image((4, 3, 32, 32), "eval").
"""

MODEL = dict(img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=10)
STEPS, WARMUP, RATE, LAST_RATE, DECAY = 40, 5, 1e-3, 1e-5, 0.05
RUNS = {"adamw": None, "adamw_layer_decay": 0.75}


def learning_rate(step: int) -> float:
    """The learning rate of a step, without layer decay."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


def parameter_group(name: str, parameter, layer_decay: float | None) -> dict:
    """A group of one parameter, with its decay and the factor of its learning rate."""
    spared = parameter.ndim < 2 or name in ("cls_token", "pos_embed")
    last = MODEL["depth"] + 1
    layer = last if name.startswith(("norm.", "head.")) else 0
    if name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    factor = 1.0 if layer_decay is None else layer_decay ** (last - layer)
    return {"params": [parameter], "weight_decay": 0.0 if spared else DECAY, "factor": factor}


def run(layer_decay: float | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Meta data and arrays of one file."""
    torch, _ = import_timm()
    from timm.models.vision_transformer import VisionTransformer

    model, average = VisionTransformer(**MODEL), VisionTransformer(**MODEL)
    meta = fill_torch(model, {"doc": DOC, "steps": STEPS, "layer_decay": layer_decay, "model": MODEL})
    average.load_state_dict(model.state_dict())
    groups = [parameter_group(name, parameter, layer_decay) for name, parameter in model.named_parameters()]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)

    model.train()
    losses, grad_norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step) * group["factor"]
        labels = torch.from_numpy((np.arange(16) * 7 + step) % 10)
        logits = model(torch.from_numpy(image((16, 3, 32, 32), f"step{step}")))
        loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), model.parameters()):
                mean.mul_(0.9).add_(parameter, alpha=0.1)

    x = torch.from_numpy(image((4, 3, 32, 32), "eval"))
    with torch.no_grad():
        answers = {"logits": model.eval()(x).numpy(), "ema_logits": average.eval()(x).numpy()}
    return meta, {"losses": np.array(losses), "grad_norms": np.array(grad_norms), **answers}


def main(argv: list[str] | None = None) -> int:
    args = maker(__doc__).parse_args(argv)
    for name, layer_decay in RUNS.items():
        meta, arrays = run(layer_decay)
        write(args.folder / "training" / f"{name}.npz", meta, **arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
