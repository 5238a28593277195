#!/usr/bin/env bash
# transformers' T5 tokenizer gives other ids than the tokenizer.json that it is loaded from.
#
# Version:     transformers 5.24.0, tokenizers 0.23.3
# Expectation: T5TokenizerFast loaded from a folder uses that folder's tokenizer.json as it is, as other fast tokenizers
#              do, so its ids equal those of tokenizers.Tokenizer.from_file.
# Behaviour:   it rebuilds the pre-tokenizer, with a word mark in front of everything that follows a special token: the
#              text behind <pad> starts a new word. A program that reads the file itself and one that loads the class
#              then feed a text encoder two texts.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.3 protobuf 2>/dev/null
cd "$here"
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$here/venv/bin/python" - <<'PY'
import tokenizers, transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import T5TokenizerFast

pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("b", -3.0), ("▁a", -2.5)]
tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
# as in the published T5 files
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
tokenizer.decoder = decoders.Metaspace(replacement="▁")
tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
tokenizer.save("tokenizer.json")

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
file = Tokenizer.from_file("tokenizer.json")
loaded = T5TokenizerFast.from_pretrained(".", extra_ids=0)
text = "a<pad>b"
print("the file   ", file.encode(text).tokens, file.encode(text).ids)
print("the class  ", loaded.convert_ids_to_tokens(loaded(text)["input_ids"]), loaded(text)["input_ids"])
assert loaded("a b")["input_ids"] == file.encode("a b").ids, "ordinary text is equal"
assert loaded(text)["input_ids"] != file.encode(text).ids, "equal now"
PY
# Output seen:
# transformers 5.24.0 tokenizers 0.23.3
# the file    ['▁a', '<pad>', 'b', '</s>'] [6, 0, 5, 1]
# the class   ['▁a', '<pad>', '▁', 'b', '</s>'] [6, 0, 3, 5, 1]
