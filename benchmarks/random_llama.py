"""Writes a Llama checkpoint with random weights and a byte-level tokenizer, with the standard library alone.

    from random_llama import SHAPES, write
    write("DIR", SHAPES["15m"])

The matrices are bf16 values of either sign between 2^-7 and 2^-5: about the spread of an untrained model. Every token
beyond the 256 bytes is a word that stands for itself, so that any id can be sent and any reply decoded.
"""

import json
import random
import struct
from pathlib import Path

SHAPES = {
    "0.4m": dict(hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=4, vocab_size=512),
    "15m": dict(hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
                num_key_value_heads=6, vocab_size=32000),
    "134m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, vocab_size=49152),
    "0.5b": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, vocab_size=65536),
}
POSITIONS = 1024
EOS = "<|end|>"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"


def tokens(vocab_size):
    """The tokens by id: the bytes in GPT-2's alphabet, words, the end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    byte_tokens = [chr(byte if byte in printable else next(moved)) for byte in range(256)]
    return byte_tokens + [f"Ġword{id}" for id in range(256, vocab_size - 1)] + [EOS]


def tensors(shape):
    """Names and sizes in the order of the file."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    key_value = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        for name, size in {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (key_value, hidden),
            "self_attn.v_proj": (key_value, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", size
    yield "model.norm.weight", (hidden,)


def bf16(generator, size):
    """Norms of ones, random matrices."""
    count = 1
    for axis in size:
        count *= axis
    if len(size) == 1:
        return b"\x80\x3f" * count
    data = bytearray(generator.randbytes(2 * count))
    # Sign and upper exponent; the lower byte, half an exponent bit and the fraction, stays random.
    data[1::2] = data[1::2].translate(bytes(0x3C | byte & 0x80 for byte in range(256)))
    return bytes(data)


def widened(data):
    """The same values in f32."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return wide


def write(directory, shape, seed=1, f32=False):
    """Writes config, weights (tied, in bf16 or f32) and tokenizer; returns the number of parameters."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    eos = shape["vocab_size"] - 1
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", **shape, max_position_embeddings=POSITIONS,
                  rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=True, bos_token_id=eos,
                  eos_token_id=eos, torch_dtype="float32" if f32 else "bfloat16")
    (directory / "config.json").write_text(json.dumps(config))

    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    special = dict(id=eos, content=EOS, special=True, single_word=False, lstrip=False, rstrip=False, normalized=False)
    vocabulary = {token: id for id, token in enumerate(tokens(shape["vocab_size"]))}
    tokenizer = dict(version="1.0", truncation=None, padding=None, normalizer=None, post_processor=None,
                     added_tokens=[special], pre_tokenizer=byte_level, decoder=byte_level,
                     model=dict(type="BPE", vocab=vocabulary, merges=[]))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="PreTrainedTokenizerFast", eos_token=EOS, chat_template=TEMPLATE)))

    generator = random.Random(seed)
    header, offset, width = {}, 0, 4 if f32 else 2
    for name, size in tensors(shape):
        length = width
        for axis in size:
            length *= axis
        header[name] = dict(dtype="F32" if f32 else "BF16", shape=size, data_offsets=[offset, offset + length])
        offset += length
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _, size in tensors(shape):
            values = bf16(generator, size)
            file.write(widened(values) if f32 else values)
    return offset // width
