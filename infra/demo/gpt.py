"""Trains a small GPT on the codes of photos and draws what it makes: an example to copy.

    python -m infra.demo.gpt demo/codes/small demo/gpt

A picture is read as a sentence is: its caption first, then its codes, row by row. Kill it and run
it again: it goes on behind its last checkpoint, with the batches that were to come.
"""

import itertools
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.demo.gpt_picture import draw
from vqpipe import CodesDataset, CodesLoader

STEPS, BATCH_SIZE, SAVE_EVERY = 400, 8, 20
WIDTH, LAYERS, HEADS = 128, 4, 4
PEAK_LR, WARMUP = 3e-3, 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Past = list[tuple[Tensor, Tensor]]
"""Keys and values of tokens that a block has seen, each (B, HEADS, 1, C)."""


class Block(nn.Module):
    """Looks at what came before, then thinks by itself; both are added to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        """(B, n, WIDTH) to the same; with a past, n is 1, and what is seen is added to it."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (3, HEADS, -1))  # (B, n, 3, HEADS, C)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, HEADS, n, C)
        if past is not None:
            past.append((k, v))
            k, v = (torch.cat(each, dim=2) for each in zip(*past, strict=True))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Says of each place of a picture how likely each code is, by the caption and those before."""

    def __init__(self, captions: int, codebook_size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.tokens = nn.Embedding(codebook_size + captions, WIDTH)  # captions behind the codes
        self.row, self.column = (nn.Parameter(torch.zeros(side, WIDTH)) for side in shape)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, codebook_size)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor, pasts: list[Past] | None = None) -> Tensor:
        """Tokens (B, n), the caption's first, to logits of the codes behind: (B, n, codebook)."""
        places = (self.row[:, None] + self.column).flatten(0, 1)  # (h * w, WIDTH)
        first = len(pasts[0]) if pasts else 0
        x = self.tokens(tokens) + places[first : first + tokens.shape[1]]
        for number, block in enumerate(self.blocks):
            x = block(x, pasts[number] if pasts else None)
        return self.head(self.norm(x))

    @torch.no_grad()
    def sample(self, captions: Tensor, given: Tensor, top: int = 100) -> Tensor:
        """Captions' tokens (B,) to codes (B, h * w), of which the first may be given, (B, any)."""
        pasts: list[Past] = [[] for _ in self.blocks]
        sentence = [captions]
        for place in range(len(self.row) * len(self.column)):
            likely, codes = self(sentence[-1][:, None], pasts)[:, 0].topk(top)
            drawn = codes.gather(1, torch.multinomial(likely.softmax(dim=1), 1))[:, 0]
            sentence.append(given[:, place] if place < given.shape[1] else drawn)
        return torch.stack(sentence[1:], dim=1)


def survey(data: CodesDataset) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Returns a picture of each caption, (h * w,), and what guesses that only count would lose."""
    pictures: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for batch in data:
        for caption, codes in zip(batch["txt"], batch["codes"], strict=True):
            pictures.setdefault(caption, codes)
            counted = codes.bincount(minlength=data.codebook_size).double()
            counts[caption] = counts.get(caption, 0) + counted
    table = torch.stack(list(counts.values()))  # (captions, codebook)
    of_all = table.sum(0, keepdim=True)
    return dict(sorted(pictures.items())), {
        "any code": math.log(data.codebook_size),
        "by how often each code is there": entropy(of_all),
        "by how often it is there with a caption": entropy(table),
    }


def entropy(counts: Tensor) -> float:
    """Nats of a code if one knows its row of a table of counts, (rows, codebook)."""
    likely = counts / counts.sum(1, keepdim=True)
    return float(-torch.special.xlogy(counts, likely).sum() / counts.sum())


def train(parts: dict[str, Any], token_of: dict[str, int], path: Path, steps: int) -> list[float]:
    """Trains on from a checkpoint, if there is one; returns the loss of every step so far."""
    gpt, optimizer, losses = parts["gpt"], parts["optimizer"], load(path, parts)
    started = time.monotonic()
    for batch in itertools.islice(endless(parts["data"]), steps - len(losses)):
        codes = batch["codes"].to(DEVICE)  # (B, h * w)
        captions = torch.tensor([[token_of[each]] for each in batch["txt"]], device=DEVICE)
        logits = gpt(torch.cat([captions, codes[:, :-1]], dim=1))
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        optimizer.param_groups[0]["lr"] = learning_rate(len(losses), steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % SAVE_EVERY == 0 or len(losses) == steps:
            save(path, parts, losses)
            seconds, last = time.monotonic() - started, losses[-SAVE_EVERY:]
            print(f"step {len(losses)}  loss {sum(last) / len(last):.3f}  {seconds:.0f} s")
    return losses


def endless(loader: CodesLoader) -> Iterator[dict[str, Any]]:
    """Yields the batches of what is left of an epoch, then of the next, and so on."""
    while True:
        yield from loader


def learning_rate(step: int, steps: int) -> float:
    """Up for a few steps, then down along a cosine."""
    return PEAK_LR * min((step + 1) / WARMUP, (1 + math.cos(math.pi * step / steps)) / 2)


def save(path: Path, parts: dict[str, Any], losses: list[float]) -> None:
    """Writes a checkpoint beside the last one, then puts it in its place."""
    states = {name: part.state_dict() for name, part in parts.items()}  # that of data: four numbers
    torch.save({**states, "losses": losses}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load(path: Path, parts: dict[str, Any]) -> list[float]:
    """Has all parts go on where the checkpoint was written; returns the losses up to there."""
    if not path.exists():
        return []
    states = torch.load(path, map_location=DEVICE, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    print(f"goes on behind step {len(states['losses'])}")
    return list(states["losses"])


def main(sink: str, output: str, steps: int = STEPS) -> None:
    """Trains, and draws photos, photos of which the GPT makes the lower half, and its own."""
    torch.manual_seed(0)
    Path(output).mkdir(parents=True, exist_ok=True)
    columns = ["codes", "txt"]
    every = CodesDataset(sink, columns=columns, views="all", shuffle=False, tail="uneven")
    photos, guesses = survey(every)
    for name, loss in guesses.items():
        print(f"loss {loss:.3f} of who guesses {name}")

    data = CodesDataset(sink, columns=columns, batch_size=BATCH_SIZE, tail="drop", seed=0)
    gpt = GPT(len(photos), data.codebook_size, data.shapes[0]).to(DEVICE)
    optimizer = torch.optim.AdamW(gpt.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    parts = {"gpt": gpt, "optimizer": optimizer, "data": data.loader(num_workers=2)}
    token_of = {caption: data.codebook_size + number for number, caption in enumerate(photos)}
    losses = train(parts, token_of, Path(output) / "checkpoint.pt", steps)

    torch.manual_seed(0)  # a loader draws numbers at each epoch, more often if nothing stopped it
    captions = torch.tensor(list(token_of.values()), device=DEVICE)
    given = torch.stack(list(photos.values())).to(DEVICE)  # (captions, h * w)
    halves = gpt.sample(captions, given[:, : given.shape[1] // 2])
    rows = {
        "a photo": given,
        "its upper half,\nthe rest made": halves,
        "made of the\ncaption alone": gpt.sample(captions, given[:, :0]),
        "and again": gpt.sample(captions, given[:, :0]),
    }
    pixels = {name: data.decode_codes(codes) for name, codes in rows.items()}
    page = draw(list(photos), pixels, losses, guesses)
    page.save(Path(output) / "samples.png")
    print(f"What it makes, beside photos: {output}/samples.png")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
