"""Make the embedded vision-language encoder: `python -m scripts.pretrain_vision_language [--updates N] [--out FOLDER]`.

Draws captioned pictures of the built-in tasks and of tabletops, trains a small SigLIP on them, saves it where
`vision_language=embedded` finds it, and prints its card. A run that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import envs  # noqa: F401  chooses the GL backend, and loads triton before the first GL context

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "worldmodel" / "vision_language" / "embedded"
COMMAND = "python -m scripts.pretrain_vision_language"
SIZE = 64  # pixels
CHUNK = 5000  # pictures of a file
CHECKED = 1000  # pictures of a measurement, held out
CHOICES = 32
TEXT_BATCH = 192  # pictures of an update of the text alone, each with three sentences
FACTS = 16  # of each picture, an update
RECOLOURED = 0.25  # of the pictures of an update
SAVED_EVERY = 500  # updates
BARS = {"scenes": 0.8, "combinations": 0.7, "phrasings": 0.7, "layouts": None}


def main() -> None:
    """Draw, train, save, measure."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000, help="to draw (100000)")
    parser.add_argument("--updates", type=int, default=6000, help="of 128 pictures each (6000)")
    parser.add_argument("--text-updates", type=int, default=1500, help="of the text alone, afterwards (1500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw (2)")
    parser.add_argument("--threads", type=int, default=0, help="of the training; torch's own number (0)")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/vision_language"), help="of pictures and checkpoints"
    )
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="where the encoder goes")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where its card goes")
    arguments = parser.parse_args()
    from worldmodel.precision import configure

    configure(arguments.threads or None)
    began = time.monotonic()
    pictures, tables = drawn(arguments)
    spent = {"drawing": time.monotonic() - began}
    began = time.monotonic()
    trained(arguments, pictures, tables)
    spent["training"] = time.monotonic() - began
    card(arguments, spent)


def drawn(arguments):
    """The pictures to train on, `[N, H, W, 3]`, and what is true of them; drawn chunk by chunk, once."""
    import numpy as np

    from envs.captions.truth import Tables

    folder = arguments.folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{arguments.seed}_{chunk}.npz" for chunk in range(-(-arguments.pictures // CHUNK))]
    missing = [(path, [arguments.seed, chunk]) for chunk, path in enumerate(paths) if not path.exists()]
    if missing:
        print(f"drawing {len(missing) * CHUNK} pictures", flush=True)
        with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
            for done, _ in enumerate(pool.imap_unordered(_draw_chunk, missing), 1):
                print(f"{done * CHUNK} of {len(missing) * CHUNK}", flush=True)
    chunks = [np.load(path) for path in paths]
    tables = Tables(*(np.concatenate([chunk[name] for chunk in chunks]) for name in Tables._fields))
    return np.concatenate([chunk["pictures"] for chunk in chunks]), tables


def _draw_chunk(task) -> None:
    import numpy as np

    from envs.captions.corpus import Corpus

    path, seed = task
    corpus = Corpus(SIZE)
    pictures, tables = corpus.draw(CHUNK, seed)
    corpus.close()
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, pictures=pictures, **tables._asdict())
    partial.replace(path)


def trained(arguments, pictures, tables) -> None:
    """Train both encoders, then the text's alone, each from its last checkpoint on, and save the encoder."""
    import numpy as np
    import torch

    from envs.captions.codes import LABELS, NAMED_BY, RELATIONS, SUBJECTS, codes_of, draw_codes, labels
    from envs.captions.recolouring import recolour
    from envs.captions.speaking import asked_claims, known_words, possible_claims, say, true_claims
    from envs.captions.telling import told_attributes, told_codes, told_labels, told_sentences
    from envs.captions.truth import ATTRIBUTE_WEIGHTS, ATTRIBUTES, attributes, degrees
    from worldmodel.vision_language.contrastive import (
        DualEncoderConfig,
        Pretraining,
        make_model,
        make_tokenizer,
        save,
    )
    from worldmodel.vision_language.fact_encoder import Facts, Vocabulary
    from worldmodel.vision_language.locked import LockedTuning

    config = DualEncoderConfig()
    tokenizer = make_tokenizer(known_words())
    torch.manual_seed(arguments.seed)
    model = make_model(config, len(tokenizer), SIZE)
    vocabulary = Vocabulary(len(RELATIONS), SUBJECTS, NAMED_BY, LABELS)
    training = Pretraining(model, tokenizer, config, arguments.updates, ATTRIBUTES, vocabulary, ATTRIBUTE_WEIGHTS)

    def said_of(rows, rng, makers):
        """What is said of pictures, the sentences, how true they are and whether that is known."""
        claims = [make(tables, row, rng) for make in makers for row in rows]
        return claims, [say(claim, rng) for claim in claims], *degrees(claims, tables.of(rows))

    def pretrain(update: int) -> dict[str, float]:
        rng = np.random.default_rng([arguments.seed, update])
        rows = rng.integers(len(pictures), size=config.batch_size)
        chosen = tables.of(rows)
        claims, sentences, true, known = said_of(rows, rng, (true_claims, possible_claims))
        seen, recoloured = pictures[rows], rng.random(len(rows)) < RECOLOURED
        seen[recoloured] = recolour(seen[recoloured], rng)
        known = told_sentences(true, known, claims, chosen, recoloured)
        parts = chosen.cells.astype(int), *told_attributes(attributes(chosen), recoloured)
        codes = told_codes(draw_codes(chosen, FACTS, rng), chosen, recoloured, rng)
        answers, weight = labels(chosen)
        facts = Facts(codes, (answers, told_labels(answers, weight, chosen, recoloured)), codes_of(claims))
        return training.update(update, seen, sentences, true, known, rng, parts, facts)

    def saved() -> None:
        save(arguments.out, model, tokenizer, SIZE)

    modules, run = {"model": model, "teachers": training.teachers}, _run(arguments)
    _stage(arguments, "checkpoints", run, modules, training, pretrain, saved)
    tuning = LockedTuning(training, arguments.text_updates)
    images = tuning.encoded(pictures)

    def tune(update: int) -> dict[str, float]:
        rng = np.random.default_rng([arguments.seed, arguments.updates + update])
        rows = rng.integers(len(pictures), size=TEXT_BATCH)
        claims, sentences, true, known = said_of(rows, rng, (true_claims, possible_claims, asked_claims))
        known = told_sentences(true, known, claims, tables.of(rows), np.zeros(len(rows), bool))
        return tuning.update(update, images[rows], sentences, true, known, rng, codes_of(claims))

    run = {**run, "text_updates": arguments.text_updates}
    _stage(arguments, "text_checkpoints", run, modules, tuning, tune, saved)


def _stage(arguments, name: str, run: dict, modules: dict, training, update: Callable, saved: Callable) -> None:
    """The updates of one stage that are left, with checkpoints in the folder `name`, of a `run`."""
    import numpy as np

    from worldmodel.checkpoint import find_checkpoint, load_module, load_optimizer, read_meta, save_checkpoint

    checkpoints, first = arguments.folder / name, 0
    if (checkpoints / "last").exists():
        last = find_checkpoint(checkpoints / "last")
        if read_meta(last)["run"] == run:
            for module_name, module in modules.items():
                load_module(last, module_name, module)
            for optimizer_name, optimizer in training.optimizers.items():
                load_optimizer(last, optimizer_name, optimizer)
            first = read_meta(last)["update"]
    print(f"{name}: from update {first} of {training.updates}", flush=True)
    losses, began = [], time.monotonic()
    for number in range(first, training.updates):
        losses.append(update(number))
        if (number + 1) % SAVED_EVERY == 0 or number + 1 == training.updates:
            meta = {"update": number + 1, "run": run}
            save_checkpoint(checkpoints / str(number + 1), modules, training.optimizers, meta, keep=1)
            saved()
            rate = (number + 1 - first) / (time.monotonic() - began)
            measured = measure(arguments.out, "scenes", 7, count=CHECKED // 2)
            print(
                f"update {number + 1}: {_means(losses)}, {rate:.2f} updates/s, retrieval "
                f"{np.mean(measured['hits']):.3f}, area under the curve {measured['area']:.3f}",
                flush=True,
            )
            losses.clear()


def _means(losses: list[dict[str, float]]) -> str:
    import numpy as np

    names = losses[-1]
    return ", ".join(f"{name} {np.mean([loss[name] for loss in losses if name in loss]):.3f}" for name in names)


def _run(arguments) -> dict:
    """What a checkpoint must be of, to go on from it."""
    return {"pictures": arguments.pictures, "updates": arguments.updates, "seed": arguments.seed}


def measure(encoder_folder: Path, what: str, seed: int, count: int = CHECKED) -> dict:
    """Held-out pictures and sentences, encoded as any user would: whether the right one of 32 sentences was found, and how
    well true sentences about what a picture shows are told from false ones."""
    import numpy as np

    from envs.captions.corpus import Corpus
    from envs.captions.speaking import possible_claims, say, true_claims
    from envs.captions.truth import truth
    from worldmodel.vision_language import load
    from worldmodel.vision_language.scoring import area_under_curve, retrieved

    split = {"combinations": "held_out_combinations", "layouts": "held_out_layouts"}.get(what, "train")
    phrasings = "held_out" if what == "phrasings" else "seen"
    corpus, rng = Corpus(SIZE), np.random.default_rng([1 << 20, seed])
    pictures, tables = corpus.draw(count, [1 << 20, seed], split)
    corpus.close()
    encoder = load(encoder_folder)
    seen = encoder.encode_images(pictures)[:, 0].numpy()
    claims = [true_claims(tables, row, rng, about_held_out=what == "combinations") for row in range(count)]
    scores = seen @ encoder.encode_text([say(claim, rng, phrasings) for claim in claims]).numpy().T
    hits = retrieved(scores, *truth(claims, tables), CHOICES, rng)
    doubtful = [possible_claims(tables, row, rng) for row in range(count)]
    said = encoder.encode_text([say(claim, rng, phrasings) for claim in doubtful]).numpy()
    own = truth(doubtful, tables)[0].diagonal()
    return {"hits": hits, "area": area_under_curve((seen * said).sum(1), own)}


def card(arguments, spent: dict[str, float]) -> None:
    """Measure the saved encoder, write results/vision_language_*.json, and print what it is."""
    from worldmodel.provenance import result_json, write_json

    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    facts = {
        "pictures": arguments.pictures,
        "updates": arguments.updates,
        "text_updates": arguments.text_updates,
        "megabytes": round(size / 1e6, 2),
        "seconds": {name: round(value) for name, value in spent.items()},
    }
    command = " ".join(
        (
            COMMAND,
            *(
                f"--{name.replace('_', '-')} {getattr(arguments, name)}"
                for name in ("pictures", "updates", "text_updates", "seed")
            ),
        )
    )
    for what, bar in BARS.items():
        measured = measure(arguments.out, what, 1)
        claim = f"retrieval of the right caption among {CHOICES}, held-out {what}: share of {CHECKED} pictures"
        hits = [float(hit) for hit in measured["hits"]]
        more = {"area_under_curve": measured["area"], **facts}
        result = result_json(claim, command, [arguments.seed], hits, bar, **more)
        result["values"] = [result["mean"]]
        write_json(arguments.results / f"vision_language_{what}.json", result)
        met = "" if bar is None else f", bar {bar}: {'met' if result['met'] else 'missed'}"
        print(f"{claim}: {result['mean']:.3f}{met}; true from false: area {measured['area']:.3f}", flush=True)
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
