"""Files of pretrained language models, read and written.

- `folder`: a model from a Hugging Face folder or a GGUF file, and a folder from a model
- `safetensor_files`, `gguf_files`: tensors by their names
- `words`, `chat`: the tokenizer, special tokens and chat templates of a model
- `symbols`: the same of a run's task
- `byte_tokenizer`: bytes as a tokenizer.json
- `word_files`: the files of a tokenizer and of a licence, copied
- `gguf_tokenizer`: a tokenizer.json of what a GGUF file says
- `varied`: strings that tokenizers disagree on
- `golden`, `golden_words`: what another program makes of a model and its words
- `pretrained`: a model as the policy or the teacher of a run
- `adapters`: low-rank adapters in PEFT's layout
- `counts`: operations that a model's work needs, and bytes that it moves
- `ready`: a model that reads and writes text
- `libraries`: what has to be installed for each
"""
