"""From data to artefact in one command.

    python -m training small --data DATA --out OUT
    python -m training small --data DATA --out OUT --resume
    python -m training small --data DATA --out OUT --init CHECKPOINT --minutes 65

OUT/model is a Hugging Face directory, OUT/run.jsonl the run's log. The same command with --resume goes on where a
stopped run was. Without --data the model is trained on the generated conversations alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from training import held_out
from training.config import RUNS
from training.export import export, load_weights
from training.generate.words import Draw
from training.growth import grow
from training.model import Decoder
from training.packing import Sampler, join, pack
from training.sources import Source, open_sources
from training.tokenizer import read_tokenizer, train_tokenizer
from training.train import Run

TOKENIZER_CONVERSATIONS = 1500
"""Of each source, to train the tokenizer on."""


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    config = RUNS[options.config]
    options.out.mkdir(parents=True, exist_ok=True)
    sources = open_sources(options.data)
    tokenizer = find_tokenizer(options, sources, config.decoder.vocab_size)
    # So that a tokenizer from few texts, and so with fewer tokens, has no rows that mean nothing.
    config = replace(config, decoder=replace(config.decoder, vocab_size=tokenizer.get_vocab_size()))
    model = Decoder(config.decoder).to("cuda" if torch.cuda.is_available() else "cpu")
    if options.init:
        load_weights(model, options.init)
    if options.induction:
        sampler = Sampler(sources, tokenizer, config.phases[0], options.seed)
        seen = join(pack(sampler.documents(0), 20_000 // config.phases[0].length, config.phases[0].length))
        model = grow(model.cpu(), seen, loudness=0.7, strength=0.6).to(model.embed_tokens.weight.device)
    freeze(model, options.freeze)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters", flush=True)
    watched = held_out.gather(options.data, tokenizer, options.watch, config.phases[0].length)
    run = Run(config, model, tokenizer, sources, watched, options.out, seed=options.seed, minutes=options.minutes)
    if options.resume:
        run.resume()
    run.train()
    best = torch.load(options.out / "best.pt", weights_only=True)
    model.load_state_dict(best)
    export(model, tokenizer, options.out / "model")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", choices=RUNS)
    parser.add_argument("--out", type=Path, required=True, help="the run's directory")
    parser.add_argument("--data", type=Path, help="the folder with dialogue/, qa/ and instruct/")
    parser.add_argument("--init", type=Path, help="start from this exported checkpoint and its tokenizer")
    parser.add_argument("--induction", action="store_true", help="add two layers that begin as an induction circuit")
    parser.add_argument("--freeze", type=int, default=0, help="leave the embedding and so many layers as they are")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--minutes", type=float, help="end by the clock, if that comes first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--watch", type=int, default=48, help="held-out conversations a set")
    return parser.parse_args(arguments)


def freeze(model: Decoder, layers: int) -> None:
    """What is learned on top then cannot spoil what is below, and a step takes less time."""
    if layers:
        model.embed_tokens.requires_grad_(False)
    for layer in list(model.layers)[:layers]:
        layer.requires_grad_(False)


def find_tokenizer(options: argparse.Namespace, sources: Mapping[str, Source], vocab_size: int) -> Tokenizer:
    """The one to start from, the run's own, or a new one."""
    if options.init:
        return read_tokenizer(options.init)
    if not options.resume:
        train_tokenizer(read_texts(sources), vocab_size).save(str(options.out / "tokenizer.json"))
    return read_tokenizer(options.out)


def read_texts(sources: Mapping[str, Source]) -> Iterator[str]:
    for name, source in sources.items():
        draw = Draw(f"tokenizer {name}")
        for _ in range(TOKENIZER_CONVERSATIONS):
            yield from (message.content for message in source(draw).messages)


if __name__ == "__main__":
    main()
