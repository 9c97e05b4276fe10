"""Checkpoints scored one after the other over one load of the base; beside loading it anew for each."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

NUM_TEXTS = 8
NUM_QUESTIONS = 16
NEW_TOKENS = 24
TEXT_CHARS, QUESTION_CHARS = 800, 200
BATCH_TOKENS = 4096
SWAP, BATCHED = "a swap, of a load", "batched answers, of one by one"


def _base():
    from jobs.ml.base_model import find_base

    return find_base(str(Path("base").absolute()))


def _scorer(batch_tokens: int = BATCH_TOKENS):
    from jobs.ml.base_model import load_encoder
    from jobs.ml.evaluating import Scorer

    base = _base()
    return Scorer(base, load_encoder(base), precision="fp32", device="cpu", batch_tokens=batch_tokens, seed=0)


def _work(encoder):
    mails = json.loads(Path("mails.json").read_text())
    texts = [("a subject", tuple(mail)) for mail in mails[:NUM_TEXTS]]
    asked = [(sender, date, body[:QUESTION_CHARS]) for sender, date, body in mails[:NUM_QUESTIONS]]
    prompts = [encoder.prompt("a subject", [mail], "ann@example.org", mail[1]) for mail in asked]
    return texts, prompts


def _score(scorer, texts, prompts) -> None:
    scorer.log_probabilities(texts)
    scorer.answers(prompts, NEW_TOKENS)


def _folders() -> list[Path]:
    return sorted(Path("adapters").iterdir())


def _refrain() -> None:
    """All adapters, each merged in place; afterwards what one swap takes of one load, and batches of single answers."""
    _warm()
    begin = time.perf_counter()
    scorer = _scorer()
    texts, prompts = _work(scorer.encoder)
    for folder in _folders():
        scorer.use(folder)
        _score(scorer, texts, prompts)
    seconds = time.perf_counter() - begin
    folders = _folders()[:2] * 3
    swap = _took(lambda: [scorer.use(folder) for folder in folders]) / len(folders)
    batched = _took(lambda: scorer.answers(prompts, NEW_TOKENS))
    alone = _took(lambda: [scorer.answers([prompt], NEW_TOKENS) for prompt in prompts])
    load = min(_took(partial(_merged, folder)) for folder in folders[:3])
    print(json.dumps({"seconds": seconds, SWAP: swap / load, BATCHED: batched / alone}))


def _merged(folder: Path):
    """A base with an adapter merged into it, loaded anew by transformers and PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), str(folder)).merge_and_unload()


def _ideal() -> None:
    """One load of the base, and as many evaluations of it as there are adapters, none of which is put in place."""
    _warm()
    begin = time.perf_counter()
    scorer = _scorer()
    texts, prompts = _work(scorer.encoder)
    for _ in _folders():
        _score(scorer, texts, prompts)
    print(json.dumps({"seconds": time.perf_counter() - begin}))


def _reloaded() -> None:
    """Transformers and PEFT as their pages show them: base and adapter loaded anew and merged, mails one by one."""
    import torch
    from transformers import AutoTokenizer

    _warm()
    begin = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained("base")
    encoder = _scorer().encoder
    mails = json.loads(Path("mails.json").read_text())[:NUM_TEXTS]
    _, prompts = _work(encoder)
    for folder in _folders():
        model = _merged(folder).eval()
        with torch.inference_mode():
            for _, _, body in mails:
                ids = tokenizer(body, return_tensors="pt").input_ids
                model(input_ids=ids, labels=ids)
            for prompt in prompts:
                model.generate(
                    input_ids=torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
                )
    print(json.dumps({"seconds": time.perf_counter() - begin}))


def _warm() -> None:
    """Imports, and what libraries do at their first call, are nobody's time."""
    import peft
    import torch

    del peft
    torch.set_num_threads(1)
    scorer = _scorer()
    scorer.use(_folders()[0])
    texts, prompts = _work(scorer.encoder)
    _score(scorer, texts[:2], prompts[:2])


def _took(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


PROGRAMS: dict[str, Callable[[], None]] = {"refrain": _refrain, "ideal": _ideal, "reloaded": _reloaded}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
    sys.exit()

from rows import AtLeast, Contestant, Row, ShareAtMost  # noqa: E402


def prepare(folder: Path, num_checkpoints: int) -> None:
    """A base model of 20 million weights, adapters of rank 16 on all its linear layers, and mails."""
    import mailgen
    from ml.tiny import tiny_base

    bodies = [one.raw.decode("utf-8", "replace").partition("\n\n")[2] for one in mailgen.mails(200, seed=1)]
    bodies = [body[:TEXT_CHARS] for body in bodies if len(body) > TEXT_CHARS][:NUM_QUESTIONS]
    mails = [("ann@example.org", "2025-01-06T09:00:00Z", body) for body in bodies]
    (folder / "mails.json").write_text(json.dumps(mails))
    tiny_base(folder / "base", bodies, vocabulary=2048, width=512, layers=8)
    _write_adapters(folder, num_checkpoints)


def _write_adapters(folder: Path, num: int) -> None:
    import torch

    from jobs.ml.adapters import add_adapter, save_adapter
    from jobs.ml.base_model import find_base, load_model

    base = find_base(str((folder / "base").absolute()))
    model = add_adapter(load_model(base, device=torch.device("cpu")), rank=16, alpha=32, dropout=0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for number in range(num):
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.data.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
        save_adapter(model, folder / "adapters" / f"step_{number:03d}", base=base)


def _program(name: str, folder: Path) -> list[str]:
    del folder
    return [sys.executable, __file__, name]


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))


IDEAL = "one load and as many evaluations, nothing merged"
RELOADED = "base and adapter loaded for each, one text at a time"

ROW = Row(
    title="Evaluating checkpoints",
    unit="checkpoints",
    size=2,
    prepare=prepare,
    contestants=(
        Contestant("adapters merged in turn into one loaded base", partial(_program, "refrain")),
        Contestant(IDEAL, partial(_program, "ideal")),
        Contestant(RELOADED, partial(_program, "reloaded"), upto=1),
    ),
    goals=(
        AtLeast(1 / 1.1, IDEAL),
        AtLeast(1 / 1.1, IDEAL, times=10),
        ShareAtMost(1 / 30, SWAP),
        ShareAtMost(1 / 5, BATCHED),
    ),
    figures=(SWAP, BATCHED),
    versions=_versions,
    turns=3,
    note=(
        f"Losses of {NUM_TEXTS} mails of {TEXT_CHARS} letters and {NUM_QUESTIONS} answers of {NEW_TOKENS} tokens to "
        f"mails of {QUESTION_CHARS} for each; a Llama of 20 million weights in fp32 on one CPU, adapters of rank 16 "
        "on all linear layers. Without imports and a first warm call. A load is the base's, the adapter's, and PEFT's "
        "merge."
    ),
)
