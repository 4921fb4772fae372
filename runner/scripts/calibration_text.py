"""Prepared rows as text again, for llama.cpp, which tokenises for itself.

hashed: most (tokens), file (name). inputs: model (folder), tokens (of `prepare`). Where there are
more tokens than wanted, rows are taken at even distances from the whole file, not from its head.
"""

from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.token_rows import read_token_rows


def write_calibration_text(spec: Spec, events: Events) -> None:
    rows = [row.input_ids for row in read_token_rows(spec.inputs["tokens"]).rows]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(spec.inputs["model"]), local_files_only=True
    )

    total = sum(len(ids) for ids in rows)
    taken = rows[:: max(1, total // spec.hashed["most"])]
    texts = [
        tokenizer.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        for ids in taken
    ]
    text = "".join(text if text.endswith("\n") else text + "\n" for text in texts)
    (spec.scratch / spec.hashed["file"]).write_bytes(text.encode())
    events.measure(calibration_rows=len(taken), calibration_tokens=sum(len(ids) for ids in taken))


if __name__ == "__main__":
    main(write_calibration_text)
