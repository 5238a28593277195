"""Text encoders on real T5, UMT5 and CLIP classes: real lengths, published pipelines' padding, tokenizers, names."""

import io
import json

import pytest
import sentencepiece
import torch
from diffusers import FluxPipeline, WanPipeline
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from anchorshot.core.errors import InputError
from anchorshot.models.encoders.prompt_text import from_prompt, literal, to_prompt
from anchorshot.models.encoders.text import ClipTextPooler, TextCond, TextEncoder, load_text
from anchorshot.models.encoders.tokenizer import ClipTokenizer, JsonTokenizer, SentencePieceTokenizer, load_tokenizer
from anchorshot.models.io.checkpoint import read_checkpoint
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import Offload
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.story.stages import alias_names

SIZES = dict(d_model=32, d_kv=8, num_heads=4, num_layers=2, d_ff=48, feed_forward_proj="gated-gelu")
CLASSES = {"t5": (T5Config, T5EncoderModel), "umt5": (UMT5Config, UMT5EncoderModel)}
PROMPTS = [
    "wide shot, static, in the desert. <Mira>, a yellow square with a crown, waves on the left.",
    "<Mira> waves on the left.",
    "close-up, pan left, on the moon. <Pip> jumps on the right. <Mira> stands on the left.",
]
ODD = [
    "</s>",
    "<pad>",
    "<unk>",
    "<extra_id_9>",
    "<|endoftext|>",
    "<|startoftext|>",
    "\0",
    "\ud800",
    "\x85",
    "embedding:x",
    "(",
]
BOTH = pytest.mark.parametrize("kind", ["t5", "umt5"])


def model_of(kind, vocabulary, seed=0):
    torch.manual_seed(seed)
    config_class, model_class = CLASSES[kind]
    model = model_class(config_class(vocab_size=vocabulary, **SIZES))
    for p in model.parameters():  # default initialisation barely lets attention matter
        p.data = torch.randn_like(p) * (0.3 if p.ndim == 2 else 0.1) + (p.ndim == 1)
    return model.eval()


def pocket_tokenizer():
    return JsonTokenizer(build_tokenizer().to_str())


def vocabulary_of(tokenizer):
    return 1 + max(i for row in tokenizer.ids([*PROMPTS, "abcdefghijklmnopqrstuvwxyz <>.,!"]) for i in row) + 50


def encoder(kind="t5", **options):
    tokenizer = pocket_tokenizer()
    return TextEncoder(model_of(kind, build_tokenizer().get_vocab_size()), tokenizer, **options)


def stock_tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(), pad_token="<pad>", eos_token="</s>")


def spiece(tmp_path, symbols=()):
    """A real SentencePiece Unigram model with T5's control ids, trained on the prompts."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS * 4),
        model_writer=buffer,
        vocab_size=60,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        hard_vocab_limit=False,
        user_defined_symbols=["<Mira>", "<Otto>", *symbols],
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(buffer.getvalue())
    return buffer.getvalue()


@BOTH
def test_a_batch_equals_single_texts_at_their_real_lengths(kind):
    enc = encoder(kind)
    cond = enc.encode(PROMPTS, batch=2)
    lengths = [len(ids) for ids in enc.tokenizer.ids(PROMPTS)]
    assert len(set(lengths)) == 3 and cond.lengths == lengths
    assert cond.tokens.shape == (3, max(lengths), 32) and cond.tokens.dtype == torch.float32 and len(cond) == 3
    for text, row, n in zip(PROMPTS, cond.rows(), lengths, strict=True):
        alone = enc.encode([text])
        assert alone.tokens.shape == row.tokens.shape == (1, n, 32) and alone.mask.all()
        assert (alone.tokens - row.tokens).abs().max() < 1e-5 * alone.tokens.abs().max()
    assert (cond.tokens[~cond.mask] == 0).all() and cond.pooled is None


def test_padding_as_fluxpipeline_does():
    """T5 sees its padding, unmasked, and so does the transformer."""
    enc = encoder("t5")
    pipeline = FluxPipeline(None, None, None, None, enc.model, stock_tokenizer(), None)
    want = pipeline._get_t5_prompt_embeds(PROMPTS, max_sequence_length=48, device="cpu", dtype=torch.float32)
    padded = enc.encode(PROMPTS, pad_to=48)
    assert padded.tokens.shape == (3, 48, 32) and padded.mask.all()
    assert (padded.tokens - want).abs().max() < 1e-5 * want.abs().max()
    real = enc.encode(PROMPTS)
    n = real.lengths[1]
    assert (real.tokens[1, :n] - padded.tokens[1, :n]).abs().max() > 1e-2  # seen padding changes what the words mean


def test_padding_as_wanpipeline_does():
    """UMT5 is masked; its padding is zeros, which the transformer sees."""
    enc = encoder("umt5", pad_to=48)
    pipeline = WanPipeline(stock_tokenizer(), enc.model, None, None)
    want = pipeline._get_t5_prompt_embeds(PROMPTS, max_sequence_length=48, device="cpu")
    got = enc.encode(PROMPTS)
    assert got.mask.all() and got.tokens.shape == want.shape
    assert (got.tokens - want).abs().max() < 1e-5 * want.abs().max()
    assert (got.tokens[1, len(enc.tokenizer.ids(PROMPTS)[1]) :] == 0).all()


def test_long_prompts_are_cut_with_a_warning(caplog):
    enc = encoder(max_length=6)
    cond = enc.encode(PROMPTS[:1])
    assert cond.lengths == [6] and "cut to 6" in caplog.text
    ids = enc.tokenizer.ids(PROMPTS[:1])[0]
    assert enc._cut(ids, 6, "x") == [*ids[:5], 1]  # the end token stays


@pytest.mark.parametrize("texts", [[], "a prompt", [1, 2], None])
def test_what_is_no_list_of_prompts(texts):
    with pytest.raises(InputError, match="texts"):
        encoder().encode(texts)


def test_pooled_text():
    enc = encoder(pooler=lambda texts: torch.tensor([[float(len(t))] for t in texts]))
    cond = enc.encode(PROMPTS)
    assert cond.pooled.tolist() == [[len(t)] for t in PROMPTS]
    assert [row.pooled.tolist() for row in cond.rows()] == [[[len(t)]] for t in PROMPTS]
    moved = cond.to("cpu")
    assert isinstance(moved, TextCond) and torch.equal(moved.pooled, cond.pooled)


# --- tokenizers ------------------------------------------------------------------------------------------------------


def test_tokenizer_json_from_file_folder_and_metadata(tmp_path):
    text = build_tokenizer().to_str()
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    want = pocket_tokenizer().ids(PROMPTS)
    for found in (
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "tokenizer.json"),
        load_tokenizer(None, metadata={"tokenizer": text}),
    ):
        assert found.ids(PROMPTS) == want
        assert found.names[:3] == ["mira", "pip", "juno"] and len(found.names) > 50
    assert all(row[-1] == 1 and row.count(1) == 1 for row in want)


def test_a_tokenizer_json_without_end_token_gets_one():
    bare = json.loads(build_tokenizer().to_str())
    bare["post_processor"] = None
    bare["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    bare["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    assert JsonTokenizer(json.dumps(bare)).ids(PROMPTS) == pocket_tokenizer().ids(PROMPTS)


def test_sentencepiece_file_and_comfyui_tensor(tmp_path):
    data = spiece(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    want = [[*processor.encode(t), 1] for t in PROMPTS]
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    for found in (
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "spiece.model"),
        load_tokenizer(None, {"spiece_model": tensor}),
        load_tokenizer(None, {"text_encoders.umt5xxl.transformer.spiece_model": tensor}),
    ):
        assert isinstance(found, SentencePieceTokenizer)
        assert found.ids(PROMPTS) == want
        assert found.names == ["Mira", "Otto"]


def test_names_of_any_script_and_case(tmp_path):
    """Control tokens and what vocabularies keep for themselves are no names."""
    own = ["<extra_id_0>", "<unused7>", "<0x0A>", "<mask>", "<2es>"]
    names = ["<Émile>", "<李雷>", "<mira>", "<Anna Lena>", "<O'Neil>"]
    words = SentencePieceTokenizer(spiece(tmp_path, names + own))
    assert sorted(words.names) == sorted(["Mira", "Otto", *(name[1:-1] for name in names)])
    prompts = ["<Émile> meets <李雷> and <mira>.", "<Zoë> waves."]
    assert alias_names(prompts, words.names)[0] == prompts[0] and "<Zoë>" not in alias_names(prompts, words.names)[1]
    # tokenizer.json, with SentencePiece's mark in front as the pocket's has it
    plain = json.loads(build_tokenizer().to_str())
    plain["model"]["vocab"] += [["▁<Émile>", -2.0], ["▁<李雷>", -2.0], ["<nora b>", -2.0]]
    assert JsonTokenizer(json.dumps(plain)).names[-3:] == ["Émile", "李雷", "nora b"]


@given(st.text(max_size=30) | st.lists(st.sampled_from(ODD), max_size=6).map(" ".join))
def test_every_text_is_read_as_text(text):
    """No text gives a control token but the last, in any tokenizer, or cannot be read at all."""
    made = literal(text)
    assert literal(made) == made and from_prompt(to_prompt(text)) == made
    for ids in (pocket_tokenizer().ids([made])[0], ClipTokenizer()([text])[0].tolist()):
        clip = ids[0] == 49406
        end = 49407 if clip else 1
        assert ids.count(end) == 1 and (clip or ids[-1] == end) and 49406 not in ids[1:]


def test_only_commands_are_changed():
    same = [*PROMPTS, "“No,” she said (smiling): <Émile> <pads> </b> {x} \\(y\\) &amp;", "embedding : x"]
    assert [literal(text) for text in same] == same
    assert literal("embedding:x </s> my-embedding:y") == "embedding :x < /s> my-embedding:y"
    assert to_prompt("Mira (smiling) \\(aside\\)") == r"Mira \(smiling\) \\(aside\\)"


def test_clip_reads_what_is_written(caplog):
    """transformers' ids: quotes, entities and ligatures are not repaired, as open_clip would; plain words are alike."""
    import open_clip

    words, repairing = ClipTokenizer(), open_clip.SimpleTokenizer()
    assert torch.equal(words(PROMPTS), repairing(PROMPTS))
    for text in ("“No,” she said", "salt &amp; pepper", "ﬁne", "a <|endoftext|> b"):
        assert not torch.equal(words([text]), repairing([text]))
    assert words.lengths(["a desert", ""]) == [2, 0] and words([]).shape == (0, 77)
    long = ["a small desert at night " * 20, "a town at night " * 30]
    rows = words(long)
    assert torch.equal(rows, repairing(long)) and (rows[:, -1] == 49407).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "77 of 102" in caplog.text


def test_tokenizers_that_cannot_be_read(tmp_path):
    cases = {"tokenizer.json": b"{}", "broken.json": b"{", "latin.json": b"\xff\xfe", "spiece.model": b"no model"}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError):
            load_tokenizer(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "empty", "folder must hold tokenizer.json"),
        (tmp_path / "none", "file must exist"),
        (None, "needs its tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            load_tokenizer(path)
    words = json.loads(build_tokenizer().to_str().replace("</s>", "<end>"))
    with pytest.raises(InputError, match="end token"):
        JsonTokenizer(json.dumps(words))


# --- loading ---------------------------------------------------------------------------------------------------------


def write(path, kind, model, **extra):
    config = {**SIZES, "vocab_size": model.config.vocab_size}
    state = {k: v.detach().clone() for k, v in to_public(kind, model.state_dict()).items()}
    metadata = {"config": json.dumps(config), "tokenizer": build_tokenizer().to_str()}
    save_file({**state, **extra}, path, metadata=metadata)
    return path


@BOTH
def test_load_single_file_and_folder(tmp_path, kind):
    enc = encoder(kind)
    want = enc.encode(PROMPTS).tokens
    loaded = load_text(kind, write(tmp_path / "t.safetensors", kind, enc.model))
    assert torch.equal(loaded.encode(PROMPTS).tokens, want) and loaded.names == enc.names
    assert loaded.model.shared.weight.data_ptr() == loaded.model.encoder.embed_tokens.weight.data_ptr()
    assert not any(p.requires_grad for p in loaded.model.parameters())
    enc.model.save_pretrained(tmp_path / "folder")
    (tmp_path / "folder" / "tokenizer.json").write_text(build_tokenizer().to_str(), encoding="utf-8")
    assert torch.equal(load_text(kind, tmp_path / "folder").encode(PROMPTS).tokens, want)


def test_comfyui_umt5_scaled_fp8(tmp_path):
    """umt5_xxl_fp8_e4m3fn_scaled: HF names, `scale_weight`, `scaled_fp8`, and the tokenizer inside the file."""
    data = spiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    model = model_of("umt5", vocabulary_of(tokenizer))
    state = {}
    for key, value in to_public("umt5", model.state_dict()).items():
        if "SelfAttention" in key and key.endswith((".q.weight", ".k.weight", ".v.weight", ".o.weight")):
            scale = value.abs().max() / 448
            state[key.replace(".weight", ".scale_weight")] = scale
            state[key] = (value / scale).to(torch.float8_e4m3fn)
            value.copy_(state[key].float() * scale)  # the reference is what the file says
        else:
            state[key] = value.detach().clone()
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    state["spiece_model"] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    save_file(state, tmp_path / "umt5.safetensors")
    loaded = load_text("umt5", tmp_path / "umt5.safetensors")
    assert loaded.model.config.model_type == "umt5"
    assert loaded.names == ["Mira", "Otto"]
    reference = TextEncoder(model, tokenizer).encode(PROMPTS).tokens
    got = loaded.encode(PROMPTS).tokens
    assert (got - reference).abs().max() < 1e-5 * reference.abs().max()


@BOTH
@pytest.mark.parametrize("stored", [torch.float32, torch.float8_e4m3fn])
def test_fp8_casting_and_offload(tmp_path, kind, stored):
    enc = encoder(kind)
    model = enc.model
    for name, p in model.named_parameters():
        if p.ndim == 2 and "layer" in name and "bias" not in name:
            p.data = p.data.to(torch.float8_e4m3fn).float()
    path = write(tmp_path / "t.safetensors", kind, model)
    if stored != torch.float32:
        file = read_checkpoint(path)
        small = {k: v.to(stored) for k, v in file.state.items() if v.ndim == 2 and "layer" in k and "bias" not in k}
        path = tmp_path / "fp8.safetensors"
        save_file({**file.state, **small}, path, metadata=file.metadata)
    want = enc.encode(PROMPTS).tokens
    for options in ({"fp8": True}, {"offload": Offload("leaf")}, {"fp8": True, "offload": Offload("leaf")}):
        loaded = load_text(kind, path, **options)
        assert (loaded.encode(PROMPTS).tokens - want).abs().max() < 1e-5 * want.abs().max()
        q = loaded.model.encoder.block[0].layer[0].SelfAttention.q.weight
        assert q.dtype == (torch.float8_e4m3fn if options.get("fp8") else torch.float32)
        assert loaded.model.shared.weight.dtype == torch.float32


def test_half_precision_keeps_t5_output_layers_in_fp32(tmp_path):
    enc = encoder()
    path = write(tmp_path / "t.safetensors", "t5", enc.model)
    half = load_text("t5", path, dtype=torch.float16)
    assert half.model.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert half.model.encoder.block[0].layer[0].SelfAttention.q.weight.dtype == torch.float16
    assert half.encode(PROMPTS).tokens.dtype == torch.float32
    brain = load_text("t5", path, dtype=torch.bfloat16)
    assert {p.dtype for p in brain.model.parameters()} == {torch.bfloat16}


def test_files_that_are_no_text_encoder(tmp_path):
    path = write(tmp_path / "t.safetensors", "t5", encoder().model)
    with pytest.raises(InputError, match="must hold a UMT5 encoder.*a T5 encoder"):
        load_text("umt5", path)
    with pytest.raises(InputError, match="must be t5 or umt5"):
        load_text("bert", path)
    with pytest.raises(InputError, match="config.num_layers"):
        load_text("t5", path, config={**SIZES, "num_layers": 3})
    with pytest.raises(InputError, match="must have shape"):
        load_text("t5", path, config={**SIZES, "d_ff": 64})
    with pytest.raises(InputError, match="must describe a T5EncoderModel"):
        load_text("t5", path, config={**SIZES, "feed_forward_proj": "sideways"})
    save_file({"a": torch.zeros(1)}, path, metadata={"tokenizer": build_tokenizer().to_str()})
    with pytest.raises(InputError, match="must hold a T5 encoder"):
        load_text("t5", path)


CLIP = dict(
    vocab_size=49408,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=1,
    max_position_embeddings=77,
    hidden_act="gelu",
    eos_token_id=49407,
    bos_token_id=49406,
)


@pytest.mark.parametrize("prefix", ["", "text_model.", "text_encoders.clip_l.transformer.text_model."])
def test_clip_text_pooler(tmp_path, prefix):
    """clip_l.safetensors: names, prefixes and extra tensors as files carry them; sizes from shapes."""
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(**CLIP)).eval()
    state = {prefix + k: v.detach().clone() for k, v in model.state_dict().items()}
    extra = {prefix + "embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.tensor(1.0)}
    save_file({**state, **extra}, tmp_path / "clip_l.safetensors")
    pooler = ClipTextPooler.load(tmp_path / "clip_l.safetensors")
    ids = pooler.tokenizer(PROMPTS)
    with torch.no_grad():
        want = torch.stack(
            [model(input_ids=row[None, : int(row.argmax()) + 1]).last_hidden_state[0, -1] for row in ids]
        )
    got = pooler(PROMPTS)
    assert got.shape == (3, 64) and (got - want).abs().max() < 1e-5
    assert torch.allclose(pooler(PROMPTS[:1]), got[:1], atol=1e-6)
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "clip_l.safetensors")
    with pytest.raises(InputError, match="CLIP text model"):
        ClipTextPooler.load(tmp_path / "clip_l.safetensors")


# --- names -----------------------------------------------------------------------------------------------------------


def test_encoders_with_and_without_a_name_list():
    enc = encoder()
    aliased = enc.alias(["<Zed> waves.", "<mira> and <Zed> jump."])
    assert aliased == ["<pip> waves.", "<mira> and <pip> jump."]
    pieces = enc.tokenizer.ids(aliased[:1])[0]
    assert len(pieces) < len(enc.tokenizer.ids(["<Zed> waves."])[0])  # one piece instead of letters
    enc.names = []
    assert enc.alias(["<Zed> waves."]) == ["<Zed> waves."]


def test_names_in_metadata(tmp_path):
    enc = encoder()
    config = json.dumps({**SIZES, "vocab_size": enc.model.config.vocab_size})
    state = {k: v.detach().clone() for k, v in to_public("t5", enc.model.state_dict()).items()}
    metadata = {"config": config, "tokenizer": build_tokenizer().to_str(), "names": '["Mira", "Bo"]'}
    save_file(state, tmp_path / "t.safetensors", metadata=metadata)
    assert load_text("t5", tmp_path / "t.safetensors").names == ["Mira", "Bo"]
    save_file(state, tmp_path / "t.safetensors", metadata={**metadata, "names": "Mira"})
    with pytest.raises(InputError, match="metadata.names"):
        load_text("t5", tmp_path / "t.safetensors")
