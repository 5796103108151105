"""The contract of `Tokenizer`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from crucible_kitchen.ports import Tokenizer


class TokenizerContract:
    """The fixture is `tokenizer`; `exact` says whether every text survives the round trip."""

    exact: ClassVar[bool] = True
    texts: ClassVar[tuple[str, ...]] = (
        "",
        "plain",
        " two  spaces\n\ttab",
        "naïve 日本語 👩‍🍳",
        "\x00",
    )

    def test_is_a_tokenizer(self, tokenizer: Any) -> None:
        assert isinstance(tokenizer, Tokenizer)

    def test_decoding_undoes_encoding(self, tokenizer: Tokenizer) -> None:
        for text in self.texts:
            tokens = tokenizer.encode(text, add_special_tokens=False)
            assert all(isinstance(token, int) and token >= 0 for token in tokens)
            if self.exact:
                assert tokenizer.decode(tokens) == text

    def test_has_an_end_token_that_can_be_skipped(self, tokenizer: Tokenizer) -> None:
        eos = tokenizer.eos_token_id
        assert eos is not None
        tokens = [*tokenizer.encode("done", add_special_tokens=False), eos]
        assert tokenizer.decode(tokens) != "done"
        assert tokenizer.decode(tokens, skip_special_tokens=True) == "done"

    def test_a_conversation_extends_its_prompt(self, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_template is None:
            pytest.skip("this model has no template")
        asked = [{"role": "user", "content": "2+2?"}]
        answered = [*asked, {"role": "assistant", "content": "4"}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
        assert isinstance(whole, str)
        assert whole.startswith(prompt + "4")
