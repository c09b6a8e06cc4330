"""Train a chat model with two million parameters from random weights, on a CPU, in minutes.

    python -m finetune.training.tiny_model TEXTS.jsonl OUT_DIR --steps 3500 --seed 0

Each line of TEXTS.jsonl is {"messages": [{"role", "content"}, …]}. The last message is written by the
assistant, and only this message is part of the loss. The result is a Llama with tied embeddings and
its own byte-level BPE, stored as safetensors that `from_pretrained` can read.

Left out: validation, mixed precision, packing and several processes. With `--minutes`, the run may
end early, and the learning rate follows the clock. Without it, the same seed gives the same model.

Legend: B chats, T tokens in the longest one.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
IGNORED = -100  # transformers excludes these labels from the loss
POSITIONS = 512
LEARNING_RATE, WARM_UP, FLOOR = 2.5e-3, 0.03, 0.05
BATCH = 16

Example = tuple[list[int], int]  # token ids, and how many of them are the prompt


def train_tokenizer(chats: list[list[dict[str, str]]], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # so that any text can be encoded
        show_progress=False,
    )
    bpe.train_from_iterator((m["content"] for chat in chats for m in chat), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[2:]),
        padding_side="left",
        model_max_length=POSITIONS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3 // 32 * 32,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, chat: list[dict[str, str]]) -> Example:
    prompt = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids, len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def batches(examples: list[Example], seed: int) -> Iterator[list[Example]]:
    """Yield shuffled batches without end.

    The chats of 50 batches are sorted by length, which saves padding.
    """
    rng = random.Random(seed)
    while True:
        order = rng.sample(examples, len(examples))
        for start in range(0, len(order), BATCH * 50):
            stretch = sorted(order[start : start + BATCH * 50], key=lambda e: len(e[0]))
            cuts = list(range(0, len(stretch), BATCH))
            rng.shuffle(cuts)
            yield from (stretch[cut : cut + BATCH] for cut in cuts)


def collate(batch: list[Example], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in batch)
    shape = (len(batch), longest)  # (B, T), padded on the right
    tokens, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (ids, prompt) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt : len(ids)] = tokens[row, prompt : len(ids)]
        mask[row, : len(ids)] = 1
    return {"input_ids": tokens, "labels": labels, "attention_mask": mask}


def rate(done: float) -> float:
    """Return the learning rate after a share `done` of the run: linear warm-up, then a cosine."""
    if done < WARM_UP:
        return LEARNING_RATE * (done / WARM_UP)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
    return LEARNING_RATE * (FLOOR + (1 - FLOOR) * fall)


def train(
    model: LlamaForCausalLM, examples: list[Example], *, steps: int, seconds: float, seed: int
) -> float:
    """Train for `steps` or `seconds`, and return the mean loss of the last 100 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses: list[float] = []
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(batches(examples, seed)):
        done = max(step / steps, (time.monotonic() - started) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(done)
        loss = model(**collate(batch, model.config.pad_token_id)).loss
        if not torch.isfinite(loss):
            raise SystemExit(f"The loss became {loss.item()} at step {step}; try another seed.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"{done:4.0%}  step {step + 1}  loss {mean(losses[-100:]):.3f}", flush=True)
    return mean(losses[-100:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path, help="JSON lines, each with a list of messages")
    parser.add_argument("out", type=Path, help="folder for the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=3500, help="batches of 16 chats")
    parser.add_argument("--minutes", type=float, default=math.inf, help="maximum duration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    chats = [json.loads(line)["messages"] for line in args.texts.read_text().splitlines()]
    tokenizer = train_tokenizer(chats, args.vocab_size)
    model = new_model(tokenizer, args.hidden, args.layers)
    examples = [encode(tokenizer, chat) for chat in chats]
    print(f"{model.num_parameters():,} parameters, {sum(len(e[0]) for e in examples):,} tokens")
    loss = train(model, examples, steps=args.steps, seconds=args.minutes * 60, seed=args.seed)
    model.generation_config.update(do_sample=True, temperature=1.0, max_new_tokens=112)
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"loss {loss:.3f}, saved in {args.out}")


if __name__ == "__main__":
    main()
