"""ImageNet's validation pictures in one folder, labelled by ILSVRC's development kit."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.folders import read_imagenet
from paddlevit.data.matlab import read_mat
from tests.data.pictures import picture

# The first two classes and an inner node of a kit's meta.mat with its fields, as SciPy 1.17 writes it, without header.
META = (
    b"MATLAB 5.0 MAT-file".ljust(124)
    + b"\x00\x01IM"
    + base64.b85decode(
        "4*&oFaRC4Tc%1E&K~KUk6vqo9N@8%{JoW={7()V_AW;)Yj4_(vaha@cjaz5hqV5}b^Wq2PBiOnQOC>_+)t9_<?`{8I_qNy91OPY(0Mx~LD7*>^"
        "+gI_P@QQNr7+^VJh%<4&22ND|UHIhcZhCv}xoyv%Tu8wEb+In(HKQTZ6H$_}l?0im{w&5xND=u?tOO;4AnwNqM=@6tP6JGQoCXnMped4l@KaCS"
        "sHdX2w1&zTwirtNNYmHW=o^~eQ8977c6-q44^&=q#v3@N21mwEn8U~Htp%s^<QXxT1~Zy*%(i*2roodjOM@hV5k<Mg0?Y4H=-of`rRn-oXS?st"
        "`kT*@<^Cg^zHr@Mr>oVmiL>rMUXm!mEQaFnaYVP{I0i?0Kwyb_pa_Nk{jh_6{9)4%Zok{<ooRJ!;v5+q8S^ZMVHUNZxY(9+Y;a`!f@ltlAt7+K"
        "^YiyPS*NcWdS@wL40Vp}9JlGOFFqJx8U"
    )
)
FOX, SETTER = "n02119789", "n02100735"


def _imagenet(root, **keys):
    return read_imagenet(DataConfig(root=str(root), **keys), "c.yaml")


def _save(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(root / name)


def _kit(folder, truth="2\n1\n1\n", meta=META, name="meta.mat"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    (folder / name).write_bytes(meta)


def test_structures_and_texts_of_matlab(tmp_path):
    (tmp_path / "meta.mat").write_bytes(META)
    synsets = read_mat(tmp_path / "meta.mat")["synsets"]
    assert [synset["WNID"] for synset in synsets] == [FOX, SETTER, "n02085374"]
    assert [synset["ILSVRC2012_ID"].item() for synset in synsets] == [1, 2, 1001]
    assert synsets[0]["words"] == "kit fox, Vulpes macrotis"
    assert synsets[2]["children"].tolist() == [[1, 2]]
    assert synsets[0]["children"].size == 0


def test_damaged_matlab_files_are_refused_or_read(tmp_path):
    """Uncompressed, so that damage reaches the parser."""
    whole = META[:128] + zlib.decompress(META[136:])
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(128, len(content), 3):
            content[place] = rng.integers(256)
        (tmp_path / "a.mat").write_bytes(content[: rng.integers(136, len(content) + 1)])
        try:
            read_mat(tmp_path / "a.mat")
        except ConfigError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("a.mat cannot be read: " in message for message in refused)


@pytest.mark.parametrize(
    ("kit", "train", "val"),
    [
        ("ILSVRC2012_devkit_t12/data", "train", "val"),
        ("devkit/data", "ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        (".", "train", "val"),
    ],
)
def test_the_kit_labels_flat_pictures(tmp_path, kit, train, val):
    """Labels go by WordNet id, whatever the kit's numbers: the setter's id comes before the fox's."""
    _save(tmp_path, f"{train}/{FOX}/a.JPEG", f"{train}/{SETTER}/b.JPEG")
    _save(tmp_path, *(f"{val}/ILSVRC2012_val_{number:08}.JPEG" for number in (3, 1, 2)))
    _kit(tmp_path / kit)
    root, part, held, names = _imagenet(tmp_path)
    assert root == tmp_path
    assert names == ["English setter", "kit fox, Vulpes macrotis"]
    assert (part.names, part.labels.tolist()) == ([f"{train}/{SETTER}/b.JPEG", f"{train}/{FOX}/a.JPEG"], [0, 1])
    assert held.names == [f"{val}/ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2, 3)]
    assert held.labels.tolist() == [0, 1, 1]


def test_the_later_kits_text_list(tmp_path):
    _save(tmp_path, f"train/{FOX}/a.JPEG", f"train/{SETTER}/b.JPEG", "val/v_1.JPEG")
    _kit(tmp_path / "devkit" / "data", meta=f"{FOX} 1 kit_fox\n{SETTER} 2 setter\n".encode(), name="map_clsloc.txt")
    assert _imagenet(tmp_path)[2].labels.tolist() == [0]


def test_the_list_that_paddleclas_uses(tmp_path):
    _save(tmp_path, f"train/{FOX}/a.JPEG", f"train/{SETTER}/b.JPEG", "val/v_1.JPEG", "val/v_2.JPEG")
    (tmp_path / "val_list.txt").write_text("val/v_2.JPEG 0\nval/v_1.JPEG 1\n")
    held = _imagenet(tmp_path)[2]
    assert (held.names, held.labels.tolist()) == (["val/v_2.JPEG", "val/v_1.JPEG"], [0, 1])


def test_kits_that_do_not_fit(tmp_path):
    _save(tmp_path, f"train/{FOX}/a.JPEG", f"train/{SETTER}/b.JPEG", "val/v_1.JPEG")
    kit = tmp_path / "devkit" / "data"
    cases = [
        ({"truth": ""}, r"v_1\.JPEG has no number from 1 to 0, by which .*ground_truth\.txt could label it"),
        ({"truth": "1001\n"}, r"ground_truth\.txt line 1: '1001' is none of the 2 classes here"),
        ({"truth": "9\n"}, r"ground_truth\.txt line 1: '9' is none of the 2 classes here"),
        ({"meta": b"text"}, r"meta\.mat cannot be read: it is not a MATLAB 5 file"),
        ({"meta": META[:128] + struct.pack("<II", 14, 0)}, r"meta\.mat does not list ImageNet's classes"),
    ]
    for keys, message in cases:
        _kit(kit, **keys)
        with pytest.raises(ConfigError, match=message):
            _imagenet(tmp_path)
    (kit / "meta.mat").unlink()
    with pytest.raises(ConfigError, match=r"has no meta\.mat or meta_clsloc\.mat or map_clsloc\.txt, which says what"):
        _imagenet(tmp_path)
    _kit(kit)
    _save(tmp_path, "val/picture.JPEG")
    with pytest.raises(ConfigError, match=r"picture\.JPEG has no number from 1 to 3"):
        _imagenet(tmp_path)
