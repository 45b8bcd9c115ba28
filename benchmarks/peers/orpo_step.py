"""One ORPO step (forward, backward, clip, AdamW) in PyTorch, measured as `orpo_step` measures ours. Prints one line of JSON.

    python3 -m venv venv && venv/bin/pip install torch transformers trl peft
    OMP_NUM_THREADS=1 venv/bin/python benchmarks/peers/orpo_step.py --what torch
    OMP_NUM_THREADS=2 venv/bin/python benchmarks/peers/orpo_step.py --what trl --model 134m --lora 8

`torch` is the shortest loop on transformers' model that computes the loss; `trl` is TRL's own ORPOTrainer, whose loss is
called without its data loader. Both run in f32 on the CPU, on rows that are padded to one length.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "15m": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
                num_key_value_heads=6, vocab_size=32000),
    "134m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, vocab_size=49152),
}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=["torch", "trl"], default="torch")
    parser.add_argument("--model", choices=SHAPES, default="15m")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--lora", type=int)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def batch_of(args, vocab):
    """Chosen rows, then rejected rows, `(2 * pairs, length)`; -100 in the labels of the prompt."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, vocab, (2 * args.pairs, args.length), generator=generator)
    labels = ids.clone()
    labels[:, : args.prompt] = -100
    return ids, labels


def log1mexp(x):
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def plain_loss(model, ids, labels):
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    pairs = ids.shape[0] // 2
    nll = F.cross_entropy(logits[:pairs].reshape(-1, logits.shape[-1]), ids[:pairs, 1:].reshape(-1))
    mask = labels[:, 1:] != -100
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    average = (logps * mask).sum(1) / mask.sum(1)
    chosen, rejected = average[:pairs], average[pairs:]
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return nll - 0.1 * F.logsigmoid(log_odds).mean()


def trl_loss(model, ids, labels):
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "q": 4}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    config = ORPOConfig(output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True, max_length=ids.shape[1], beta=0.1,
                        bf16=False, fp16=False, gradient_checkpointing=False, disable_dropout=True)
    rows = Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}])
    trainer = ORPOTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    pairs = ids.shape[0] // 2
    batch = {}
    for side, part in (("chosen", slice(0, pairs)), ("rejected", slice(pairs, None))):
        batch[f"{side}_input_ids"] = ids[part]
        batch[f"{side}_attention_mask"] = torch.ones_like(ids[part])
        batch[f"{side}_labels"] = labels[part]
    prompt = labels[0].eq(-100).sum()
    batch["prompt_input_ids"] = ids[:pairs, :prompt]
    batch["prompt_attention_mask"] = torch.ones_like(batch["prompt_input_ids"])
    return lambda: trainer.get_batch_loss_metrics(model, batch, "train")[0]


def main():
    args = arguments()
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = SHAPES[args.model]
    config = LlamaConfig(**shape, max_position_embeddings=args.length, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    parameters = sum(p.numel() for p in model.parameters())
    if args.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=args.lora, lora_alpha=2 * args.lora, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if args.lora:
            model.enable_input_require_grads()
    model.train()
    ids, labels = batch_of(args, shape["vocab_size"])
    loss_of = trl_loss(model, ids, labels) if args.what == "trl" else lambda: plain_loss(model, ids, labels)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)

    def step():
        wall, cpu = time.perf_counter(), time.process_time()
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - wall, time.process_time() - cpu

    step()
    walls, cpus = zip(*(step() for _ in range(args.steps)))
    print(json.dumps({
        "what": args.what,
        "parameters": parameters,
        "tokens": ids.numel(),
        "seconds": round(statistics.median(walls), 3),
        "cpu_seconds": round(statistics.median(cpus), 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }))


if __name__ == "__main__":
    main()
