"""TRL's trainers, and transformers' `generate`, as peers of the language model works.

A trainer's steps are those of its own `train()`: from the end of one step to the end of the next,
with fetching the batch, generating, scoring, the loss, its gradient, clipping, Adam and the
scheduler. Weights are random, of a `LlamaConfig`, or those of a folder, with peft's adapters."""

from __future__ import annotations

import os
import random
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.bench.peers.protocol import Line


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
PACKAGES = ("trl", "transformers", "torch")
FIRST = 0x20000  # a symbol's character is that many further, so that text of symbols has no spaces
MOST_STEPS = 100_000


def device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def finished() -> None:
    """Wait for what a GPU was given to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def model_of(asked: dict) -> Any:
    """A Llama of the asked shape, float32, its head tied to the embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    shape = asked["shape"]
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        intermediate_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def in_a_folder(asked: dict) -> str:
    """The same model as a folder: trainers that keep a reference read it a second time."""
    folder = tempfile.mkdtemp()
    model_of(asked).save_pretrained(folder)
    return folder


def tokenizer_of(vocab: int, eos_inside: bool = False) -> Any:
    """One character a symbol. Neither the end nor the padding is a symbol of the model, so that no
    string ends before its horizon; with `eos_inside` symbol 0 is the end, which DPO's rows need."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {chr(FIRST + i): i for i in range(vocab)} | {"<eos>": vocab, "<pad>": vocab + 1}
    backend = Tokenizer(models.WordLevel(words, unk_token=chr(FIRST)))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=chr(FIRST) if eos_inside else "<eos>",
        pad_token="<pad>",
        padding_side="left",
    )


def symbols(draw: random.Random, vocab: int, length: int) -> list[int]:
    """Random, without symbol 0."""
    return [draw.randrange(1, vocab) for _ in range(length)]


def text(numbers: list[int]) -> str:
    """Symbols as characters."""
    return "".join(chr(FIRST + i) for i in numbers)


def common(asked: dict, rows: int) -> dict[str, Any]:
    """What all trainers are told; the rest is at their defaults."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": rows,
        "max_steps": MOST_STEPS,
        "learning_rate": 1e-4,
        "max_grad_norm": 1.0,
        "bf16": asked["precision"] == "bfloat16",
        "gradient_checkpointing": False,
        "use_cpu": device() == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": MOST_STEPS,
        "disable_tqdm": True,
    }


def settings_of(arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of a trainer, as the page prints them."""
    shown = {name: value for name, value in arguments.items() if name not in SILENT}
    return {**shown, **more}


SILENT = ("output_dir", "max_steps", "report_to", "save_strategy", "logging_steps", "disable_tqdm")


def callback(line: Line, tokens: float, settings: dict[str, Any]) -> Any:
    """Times the steps of a trainer, of so many tokens each."""
    from transformers import TrainerCallback

    step_ended = line.timed(tokens, settings, PACKAGES)

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            finished()
            step_ended()

    return Steps()


def dataset(rows: list[dict[str, Any]]) -> Any:
    """Rows of a `datasets.Dataset`."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def sft(line: Line, asked: dict) -> None:
    """SFTTrainer on rows that are token ids already, all of one length."""
    from trl import SFTConfig, SFTTrainer

    batch, length = asked["batch"], asked["prompt"] + asked["new"]
    draw = random.Random(0)
    vocab = asked["shape"]["vocab"]
    rows = [{"input_ids": symbols(draw, vocab, length)} for _ in range(8 * batch)]
    own = common(asked, batch)
    arguments = SFTConfig(**own, max_length=length)
    settings = settings_of(own, trainer="SFTTrainer.train", attention="sdpa")
    SFTTrainer(
        model=model_of(asked),
        args=arguments,
        train_dataset=dataset(rows),
        processing_class=tokenizer_of(vocab),
        callbacks=[callback(line, batch * length, settings)],
    ).train()


def prompts_of(asked: dict, count: int) -> list[dict[str, str]]:
    """Rows of one prompt each."""
    draw = random.Random(0)
    vocab = asked["shape"]["vocab"]
    return [{"prompt": text(symbols(draw, vocab, asked["prompt"]))} for _ in range(count)]


def distill(line: Line, asked: dict) -> None:
    """DistillationTrainer: the student's own strings, JS (beta 1/2) over all symbols."""
    from trl import DistillationConfig, DistillationTrainer

    own = common(asked, asked["batch"]) | {
        "max_completion_length": asked["new"],
        "beta": 0.5,
        "temperature": 1.0,
        "generation_kwargs": {"eos_token_id": None},
    }
    settings = settings_of(own, trainer="DistillationTrainer.train", attention="sdpa")
    tokens = asked["batch"] * asked["new"]
    DistillationTrainer(
        model=model_of(asked),
        teacher_model=model_of(asked),
        args=DistillationConfig(**own),
        train_dataset=dataset(prompts_of(asked, 8 * asked["batch"])),
        processing_class=tokenizer_of(asked["shape"]["vocab"]),
        callbacks=[callback(line, tokens, settings)],
    ).train()


def grpo(line: Line, asked: dict) -> None:
    """GRPOTrainer: groups of answers, the k3 penalty against the start in the loss."""
    from trl import GRPOConfig, GRPOTrainer

    own = common(asked, asked["batch"]) | {
        "max_completion_length": asked["new"],
        "num_generations": asked["group"],
        "beta": asked["beta"],
        "temperature": 1.0,
        "steps_per_generation": 1,
        "num_iterations": 1,
        "generation_kwargs": {"eos_token_id": None},
    }
    half = asked["shape"]["vocab"] // 2

    def reward(prompts, completions, completion_ids, **_: Any) -> list[float]:
        return [sum(i < half for i in ids) / len(ids) for ids in completion_ids]

    settings = settings_of(own, trainer="GRPOTrainer.train", attention="sdpa")
    tokens = asked["batch"] * asked["new"]
    GRPOTrainer(
        model=in_a_folder(asked),
        reward_funcs=reward,
        args=GRPOConfig(**own),
        train_dataset=dataset(prompts_of(asked, 8 * asked["batch"])),
        processing_class=tokenizer_of(asked["shape"]["vocab"]),
        callbacks=[callback(line, tokens, settings)],
    ).train()


def dpo(line: Line, asked: dict) -> None:
    """DPOTrainer on pairs of one prompt; the reference's log-probs are computed at each step."""
    from trl import DPOConfig, DPOTrainer

    draw, vocab = random.Random(0), asked["shape"]["vocab"]
    pairs = asked["batch"] // 2
    completion = lambda: text([*symbols(draw, vocab, asked["new"] - 1), 0])
    rows = [
        {**row, "chosen": completion(), "rejected": completion()}
        for row in prompts_of(asked, 8 * pairs)
    ]
    own = common(asked, pairs) | {"beta": asked["beta"], "max_length": None}
    settings = settings_of(own, trainer="DPOTrainer.train", attention="sdpa")
    DPOTrainer(
        model=in_a_folder(asked),
        args=DPOConfig(**own),
        train_dataset=dataset(rows),
        processing_class=tokenizer_of(vocab, eos_inside=True),
        callbacks=[callback(line, asked["batch"] * asked["new"], settings)],
    ).train()


def sampling(line: Line, asked: dict) -> None:
    """`generate` with its cache; all symbols are drawn from, no string ends early."""
    import torch
    from transformers import GenerationConfig

    if asked.get("model"):
        model, packages = adapted(asked), (*PACKAGES[1:], "peft")
    else:
        model, packages = model_of(asked), PACKAGES[1:]
    model = model.to(device(), getattr(torch, asked["precision"])).eval()
    model.generation_config.eos_token_id = None
    batch, new = asked["batch"], asked["new"]
    top = asked["shape"]["vocab"]
    prompts = torch.randint(1, top, (batch, asked["prompt"]), device=device())
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": new}
    config = GenerationConfig(**how, eos_token_id=None, pad_token_id=0, disable_compile=True)

    def step(updates: int) -> float:
        with torch.inference_mode():
            for _ in range(updates):
                out = model.generate(
                    prompts, attention_mask=torch.ones_like(prompts), generation_config=config
                )
                assert out.shape == (batch, asked["prompt"] + new), out.shape
        finished()
        return updates * batch * new

    settings = {"call": "model.generate", **how, "attention": "sdpa", "dtype": asked["precision"]}
    line.serve(step, settings, packages)


def adapted(asked: dict) -> Any:
    """A folder's model, float32, with peft's adapters on all seven kernels."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        asked["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    kernels = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(
        model, LoraConfig(r=asked["rank"], lora_alpha=asked["rank"], target_modules=kernels)
    )


def lora_sft(line: Line, asked: dict) -> None:
    """A plain loop over peft's model, without a trainer: forward, backward, clipping, AdamW."""
    import torch

    model = adapted(asked).to(device())
    model.train()
    half = torch.autocast(device(), torch.bfloat16, enabled=asked["precision"] == "bfloat16")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    length = asked["prompt"] + asked["new"]
    rows = torch.randint(1, asked["shape"]["vocab"], (8, asked["batch"], length), device=device())

    def step(updates: int) -> float:
        for i in range(updates):
            tokens = rows[i % len(rows)]
            with half:
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        finished()
        return updates * asked["batch"] * length

    settings = {
        "loop": "forward, backward, clip_grad_norm_, AdamW, without a trainer",
        "rank": asked["rank"],
        "gradient_checkpointing": False,
        "attention": "sdpa",
        "dtype": "float32" if asked["precision"] == "float32" else "float32, autocast to bfloat16",
    }
    line.serve(step, settings, (*PACKAGES[1:], "peft"))


WORKS = {
    "sft": lambda line, asked: (lora_sft if asked.get("model") else sft)(line, asked),
    "distill": distill,
    "sampling": sampling,
    "grpo": grpo,
    "dpo": dpo,
}
