from __future__ import annotations

import shutil

import pytest
import yaml

from paddlevit.inference import Predictor, is_export, read_info
from paddlevit.inference.folder import write_info


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_information_survives_writing_and_reading(exported, tmp_path) -> None:
    info = read_info(exported)
    write_info(tmp_path, info)
    for name in info.files:
        shutil.copy(exported / name, tmp_path)
    assert read_info(tmp_path) == info


def test_is_export(exported, tmp_path) -> None:
    assert is_export(exported)
    assert not is_export(tmp_path)
    assert not is_export(tmp_path / "nothing")


def test_a_folder_without_description(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"is not an export: it has no inference\.yml"):
        Predictor(tmp_path)


def test_missing_weights_are_noticed(copied) -> None:
    (copied / "model.pdiparams").unlink()
    with pytest.raises(ValueError, match=r"model\.pdiparams is missing\. Copy the whole folder again"):
        Predictor(copied)


def test_cut_off_weights_are_noticed(copied) -> None:
    weights = copied / "model.pdiparams"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"model\.pdiparams has 100 bytes, not {size}"):
        Predictor(copied)


def test_another_format(copied) -> None:
    file = copied / "inference.yml"
    file.write_text(
        file.read_text(encoding="utf-8").replace("paddlevit-export-1", "paddlevit-export-99"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"is not of the format paddlevit-export-1"):
        read_info(copied)
    file.write_text("a: [1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"inference\.yml cannot be read"):
        read_info(copied)


def test_class_names_of_any_language(exported, copied) -> None:
    plain = yaml.safe_load((exported / "inference.yml").read_text(encoding="utf-8"))
    plain["class_names"] = ["猫", "chien: gros", "no", "1e3", "- x"]
    (copied / "inference.yml").write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")
    info = read_info(copied)
    assert info.class_names == ["猫", "chien: gros", "no", "1e3", "- x"]
    write_info(copied, info)
    assert read_info(copied) == info
