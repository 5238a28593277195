"""Names that a text encoder was not trained with become listed ones."""

import pytest

from anchorshot.core.errors import InputError
from anchorshot.story.stages import alias_names

NAMES = ["Mira", "Pip", "Otto", "Juno"]


def test_unknown_names_become_listed_ones_the_same_throughout():
    prompts = ["<Zed> meets <Old Tom>.", "<Pip> waves.", "<Old Tom> and <Zed> leave."]
    assert alias_names(prompts, NAMES) == ["<Mira> meets <Otto>.", "<Pip> waves.", "<Otto> and <Mira> leave."]
    assert alias_names(prompts, NAMES) == alias_names(prompts, NAMES)
    assert alias_names(["< Pip > and <Pip>", "no names"], NAMES) == ["<Pip> and <Pip>", "no names"]


def test_a_listed_name_is_never_given_to_someone_else():
    out = alias_names(["<Zed> waves.", "<Mira> waves.", "<Yan> waves."], NAMES)
    assert out == ["<Pip> waves.", "<Mira> waves.", "<Otto> waves."]


def test_too_many_characters():
    with pytest.raises(InputError, match="4 characters apart.*got 5"):
        alias_names([" ".join(f"<X{i}>" for i in range(5))], NAMES)


def test_letter_case_makes_no_stranger():
    assert alias_names(["<mira> waves.", "<PIP> jumps."], NAMES) == ["<Mira> waves.", "<Pip> jumps."]
    # two who differ in case alone stay two
    assert alias_names(["<mira> meets <Mira>."], NAMES) == ["<Pip> meets <Mira>."]
    assert alias_names(["<Mira> and <Zed>."], ["mira", "pip"]) == ["<mira> and <pip>."]
