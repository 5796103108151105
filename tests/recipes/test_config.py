"""Configurations of recipes: what they refuse, and how they say it."""

from __future__ import annotations

import pytest

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.recipes import RECIPES, SupervisedFineTuning, find_recipe, find_target, parse
from crucible_kitchen.types import AdamParams

Config = SupervisedFineTuning.Config


def refused(**fields) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.parse(fields, recipe="sft")
    return str(caught.value)


def test_defaults_train_a_known_model_on_built_in_data_for_some_steps() -> None:
    config = Config.parse(None, recipe="sft")
    assert (config.model, config.dataset) == ("smollm2-135m", "builtin:python-docs")
    assert config.max_steps
    assert config.eval_split == "validation"


@pytest.mark.parametrize("recipe", RECIPES)
def test_adamw_is_told_by_default_what_a_client_is(recipe) -> None:
    config, known = find_recipe(recipe).Config(), AdamParams()
    told = config.adam_beta1, config.adam_beta2, config.adam_eps, config.weight_decay
    assert told == (known.beta1, known.beta2, known.eps, known.weight_decay)


def test_epochs_alone_are_not_cut_short() -> None:
    assert Config.parse({"epochs": 3}, recipe="sft").max_steps is None


def test_data_of_ones_own_is_split_by_holding_out_rows() -> None:
    assert Config.parse({"dataset": "rows.jsonl"}, recipe="sft").eval_split is None


def test_an_unknown_key_names_the_nearest() -> None:
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in refused(learning_rat=1)


def test_everything_wrong_is_said_at_once() -> None:
    said = refused(epoch=1, batch_size=0, schedule="cosin", lora_rank="x")
    assert len(said.splitlines()) == 5
    assert "batch_size must be at least 1, got 0" in said
    names = "'constant', 'linear', 'cosine', 'polynomial', 'inverse_sqrt' or 'wsd'"
    assert f"schedule must be {names}, got 'cosin'" in said
    assert "lora_rank must be a whole number, got 'x'" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be"),
        ({"learning_rate": True}, "learning_rate must be a number, got True"),
        ({"adam_beta1": 1.0}, "adam_beta1 must be less than 1, got 1.0"),
        ({"adam_beta2": float("nan")}, "adam_beta2 must be"),
        ({"adam_eps": 0.0}, "adam_eps must be above 0, got 0.0"),
        ({"adam_eps": float("inf")}, "adam_eps must be"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
        ({"batch_size": "4"}, "batch_size must be a whole number, got '4'"),
        ({"warmup": 1.0}, "warmup must be whole steps of at least 0, or a share in [0, 1)"),
        ({"warmup": -1}, "warmup must be"),
        ({"lora_targets": []}, "lora_targets must"),
        ({"lora_dropout": 1.0}, "lora_dropout must be less than 1, got 1.0"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
        ({"train_on": "assistant"}, "train_on must be 'last_assistant'"),
        ({"model": ""}, "model must"),
        ({"model": None}, "model must be text, got None"),
        ({"lora_targets": ["q_proj", 1]}, "lora_targets.1 must be text, got 1"),
        ({"seed": 2**64}, "seed must be less than 18446744073709551616"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(fields, said) -> None:
    assert said in refused(**fields)


@pytest.mark.parametrize("given", ["sft", 3, ["a"]])
def test_a_configuration_is_a_mapping(given) -> None:
    with pytest.raises(ConfigError, match="config must be a mapping"):
        Config.parse(given, recipe="sft")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        ("0.1", 0.1),
        ("5", 5),
        ("-1", -1),
        (".5", 0.5),
        ("null", None),
        ("true", True),
        ("[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("smollm2-135m", "smollm2-135m"),
        ("1e", "1e"),
        ("builtin:python-docs", "builtin:python-docs"),
    ],
)
def test_values_are_yaml_with_numbers_as_people_write_them(text, value) -> None:
    assert parse(text, "value") == value
    assert type(parse(text, "value")) is type(value)


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match="the value of x is not YAML"):
        parse("[1", "the value of x")


def test_every_field_is_described() -> None:
    for recipe in RECIPES.values():
        for entry in recipe.Config.fields():
            assert entry["description"], entry["name"]


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe 'sftt'; did you mean 'sft'"):
        find_recipe("sftt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: sft\nconfg: {}", "unknown key 'confg'; did you mean 'config'"),
        ("config: {}", "recipe must be given"),
        ("recipe: [sft]", "recipe must be text"),
        ("recipe: sft\nconfig: 3", "config must be a mapping"),
        ("- sft", "must hold keys recipe, config"),
        ("recipe: {", "is not YAML"),
    ],
)
def test_a_wrong_recipe_file_is_named_with_the_reason(tmp_path, text, said) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_target(path)
    assert said in str(caught.value)
    assert "wrong.yaml" in str(caught.value)


def test_a_recipe_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read"):
        find_target(tmp_path / "gone.yaml")


def test_a_recipe_file_and_the_command_are_joined(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: sft\nconfig: {batch_size: 2, learning_rate: 3e-4}\n")
    config = find_target(path).configured({"batch_size": 8})
    assert (config.batch_size, config.learning_rate) == (8, 3e-4)


@pytest.mark.parametrize("target", [None, 3, object()])
def test_a_target_is_something_that_can_run(target) -> None:
    with pytest.raises(ConfigError, match="target must be a recipe or its name"):
        find_target(target)
