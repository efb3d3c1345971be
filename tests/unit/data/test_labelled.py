"""Labelled pictures: the renderings of models by category, and folders of pictures."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hvd_r2n2.config import DataConfig
from hvd_r2n2.data import picture_folder
from hvd_r2n2.data.check import DataProblems
from hvd_r2n2.data.dataset import open_dataset
from hvd_r2n2.data.labelled import LabelledPictures, LabelledRenderings, category_names
from hvd_r2n2.data.loader import Batch, evaluation_batches, prepare_labelled, training_batches
from hvd_r2n2.data.picture_folder import PictureFolder, list_classes, open_picture_folder
from hvd_r2n2.data.sampler import EpochOrders, global_batch
from hvd_r2n2.data.splits import split_r2n2

CHAIR, LAMP = "03001627", "03636649"
CPU = torch.device("cpu")
WIDTHS = {"dropout6": 70, "dropout7": 20}
LayoutMaker = Callable[..., Path]


def quiet(message: str) -> None:
    pass


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of many sizes, modes and kinds of file, in three classes."""
    root = tmp_path / "pictures"
    modes = {"cats": "RGB", "dogs": "RGBA", "owls": "L"}
    for number, (name, mode) in enumerate(modes.items()):
        (root / name).mkdir(parents=True)
        for file in range(10):
            shape = (40 + 31 * file, 300 - 20 * file, len(mode))
            picture = Image.fromarray(noise(*shape, seed=10 * number + file).squeeze())
            assert picture.mode == mode
            suffix = ".jpg" if mode == "RGB" and file % 2 else ".png"
            picture.save(root / name / f"{file:02d}{suffix}")
    (root / "cats" / "notes.txt").write_text("not a picture")
    (root / "cats" / ".hidden.png").write_text("not a picture")
    (root / ".git").mkdir()
    return root


def opened(root: Path, classes: tuple[str, ...] = ("cats", "dogs", "owls"), **settings: object) -> PictureFolder:
    return open_picture_folder(DataConfig(root=str(root), **settings), root, classes, quiet)  # type: ignore[arg-type]


def take(dataset: LabelledPictures, rank: int = 0, size: int = 1, threads: int = 2) -> list[Batch]:
    stream = training_batches(
        dataset,
        indices=dataset.train,
        batch_size=6,
        rank=rank,
        size=size,
        seed=3,
        min_views=1,
        max_views=1,
        start_step=0,
        end_step=5,
        config=DataConfig(loader_threads=threads, prefetch_batches=3),
        masks=WIDTHS,
    )
    with stream:
        return list(stream)


def test_classes_are_the_folders_in_order(folder: Path) -> None:
    opened(folder)  # which makes the folder of caches beside them
    assert list_classes(folder) == ("cats", "dogs", "owls")
    with pytest.raises(ValueError, match="no folders in it"):
        list_classes(folder / "cats")
    with pytest.raises(ValueError, match="no such folder"):
        list_classes(folder / "absent")


def test_files_of_a_class_are_split_by_name_and_labelled_with_its_number(folder: Path) -> None:
    dataset = opened(folder)
    names = np.array([str(ref) for ref in dataset.refs])
    assert len(names) == 30
    assert set(names[dataset.test]) == {
        *(f"cats/{file}" for file in ("08.png", "09.jpg")),
        *(f"{name}/{file}" for name in ("dogs", "owls") for file in ("08.png", "09.png")),
    }
    assert (len(dataset.train), len(dataset.validation)) == (21, 3)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([dataset.train, dataset.validation, dataset.test])), np.arange(30)
    )
    classes = ["cats", "dogs", "owls"]
    for index, name in enumerate(names):
        assert int(dataset.target(index)) == classes.index(name.partition("/")[0])
    rows = [line.split() for line in dataset.summary().splitlines()]
    assert rows[1] == ["cats", "7", "1", "2", "10"]
    assert rows[0][-1] == "pictures"


def test_pictures_of_any_size_become_their_middle_square_of_256(folder: Path) -> None:
    dataset = opened(folder)
    for index, ref in enumerate(dataset.refs):
        (picture_HWC,) = dataset.images(index, [0])
        with Image.open(folder / str(ref)) as image:
            whole = image.convert("RGBA")
        short = min(whole.size)
        left, top = (whole.width - short) // 2, (whole.height - short) // 2
        square = whole.crop((left, top, left + short, top + short))
        expected = np.asarray(square.resize((256, 256), Image.Resampling.BILINEAR))
        inner = np.s_[8:-8, 8:-8]  # at the edge what lies outside of the square shows a little
        # Where little is opaque, colours mean little.
        weighted = [array[inner] * (array[inner][..., 3:] / 255) for array in (picture_HWC, expected)]
        np.testing.assert_allclose(*weighted, atol=2)


def test_a_picture_of_256_pixels_is_taken_as_it_is(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in range(5):
            Image.fromarray(noise(256, 300, 3, seed=file)).save(tmp_path / name / f"{file}.png")
    dataset = opened(tmp_path, ("a", "b"))
    picture_HWC = dataset.images(3, [0])[0]
    np.testing.assert_array_equal(picture_HWC[..., :3], noise(256, 300, 3, seed=3)[:, 22:278])
    assert (picture_HWC[..., 3] == 255).all()


def test_what_is_transparent_shows_the_background(tmp_path: Path) -> None:
    half = np.zeros((256, 256, 4), dtype=np.uint8)
    half[:128] = (200, 100, 50, 255)
    half[128] = (200, 100, 50, 51)
    half[129:] = (255, 0, 0, 0)  # a colour that cannot be seen
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in range(5):
            Image.fromarray(half).save(tmp_path / name / f"{file}.png")
    dataset = opened(tmp_path, ("a", "b"))
    with evaluation_batches(dataset, dataset.test, 1, 2, 0, 1) as batches:
        (batch,) = batches
    images_BCHW, labels_B, masks = prepare_labelled(batch, dataset.framing, CPU, torch.float64)
    assert images_BCHW.shape == (2, 3, 227, 227)
    assert labels_B.tolist() == [0, 1]
    assert masks == {}
    for channel, value in enumerate((200, 100, 50)):
        column = images_BCHW[0, channel, :, 100] + 128
        assert (column[: 128 - 14] == value).all()
        assert column[128 - 14] == pytest.approx(240 + (value - 240) * 51 / 255, abs=1e-9)
        assert (column[129 - 14 :] == 240).all()


def test_broken_pictures_are_all_named_with_a_line_to_skip_them(folder: Path) -> None:
    whole = (folder / "dogs" / "03.png").read_bytes()
    (folder / "dogs" / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cats" / "a, b.png").write_text("no picture")
    (folder / "owls" / "empty.jpeg").touch()
    (folder / "none").mkdir()
    with pytest.raises(DataProblems) as caught:
        opened(folder, ("cats", "dogs", "none", "owls"))
    message = str(caught.value)
    assert "4 problem(s) in 3 picture(s): 3 × broken picture, 1 × missing category" in message
    assert f"{folder}/dogs/03.png: is damaged or cut short" in message
    assert f"{folder}/cats/a, b.png: is not a picture that can be read" in message
    assert f"{folder}/owls/empty.jpeg: is empty (0 bytes)" in message
    assert f"{folder}/none: there are no pictures (.png, .jpg, .jpeg) in this folder" in message
    skips = yaml.safe_load(caught.value.skip_line)["skip_models"]
    assert skips == ["cats/a, b.png", "dogs/03.png", "owls/empty.jpeg"]
    dataset = opened(folder, skip_models=tuple(skips))
    assert len(dataset) == 29
    assert not {*skips} & {str(ref) for ref in dataset.refs}


def test_names_that_are_no_pictures_are_named_with_the_others(folder: Path) -> None:
    (folder / "dogs" / "gone.png").symlink_to("nowhere.png")
    (folder / "dogs" / "album.png").mkdir()
    (folder / "cats" / "caf\udce9.png").write_bytes((folder / "cats" / "00.png").read_bytes())
    with pytest.raises(DataProblems) as caught:
        opened(folder)
    message = str(caught.value)
    assert "3 problem(s) in 3 picture(s): 2 × broken picture, 1 × broken name" in message
    assert f"{folder}/dogs/gone.png: does not exist" in message
    assert f"{folder}/dogs/album.png: a folder" in message
    assert f"{folder}/cats/caf\\udce9.png: not UTF-8: rename it" in message
    skips = yaml.safe_load(caught.value.skip_line)["skip_models"]
    assert len(opened(folder, skip_models=tuple(skips))) == 30


@pytest.mark.parametrize("number", range(10))
def test_skipping_a_picture_does_not_move_the_others_between_the_parts(folder: Path, number: int) -> None:
    skipped = f"dogs/{number:02d}.png"
    whole, less = opened(folder), opened(folder, skip_models=(skipped,))
    for part in ("train", "validation", "test"):
        names = {str(whole.refs[index]) for index in getattr(whole, part)} - {skipped}
        assert {str(less.refs[index]) for index in getattr(less, part)} == names


def test_a_picture_to_skip_whose_name_is_not_utf_8_may_be_one_that_would_train(folder: Path) -> None:
    (folder / "cats" / "+\udce9.png").write_bytes((folder / "cats" / "00.png").read_bytes())
    assert len(opened(folder, skip_models=("cats/+\\udce9.png",))) == 30


def test_impossible_settings_are_explained(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no picture .*cats/9\.jpg; the nearest is cats/09\.jpg"):
        opened(folder, skip_models=("cats/9.jpg",))
    with pytest.raises(ValueError, match=r"data\.split: ShapeNet\.json cannot split labelled pictures"):
        opened(folder, split="ShapeNet.json")
    (folder / "few").mkdir()
    Image.fromarray(noise(30, 30, 3)).save(folder / "few" / "one.png")
    with pytest.raises(ValueError, match=r"too few pictures to train on in few \(at least 2"):
        opened(folder, ("cats", "few"))
    with pytest.raises(ValueError, match=r"in dogs \(at least 2 each are needed, and data\.skip_models must leave one"):
        opened(folder, skip_models=tuple(f"dogs/{number:02d}.png" for number in range(8)))


def test_files_are_checked_once_and_again_when_one_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    original = picture_folder.read_picture_file

    def watched(path: Path) -> Image.Image:
        decoded.append(path)
        return original(path)

    monkeypatch.setattr(picture_folder, "read_picture_file", watched)
    first = opened(folder)
    assert len(decoded) == 30
    assert opened(folder).content_digest == first.content_digest
    assert len(decoded) == 30
    Image.fromarray(noise(50, 50, 3, seed=99)).save(folder / "cats" / "00.png")
    assert opened(folder).content_digest != first.content_digest
    assert len(decoded) == 60


def test_the_digest_is_of_bytes_names_and_parts(folder: Path) -> None:
    before = opened(folder).content_digest
    for path in folder.glob("*/*.png"):
        os.utime(path, (1, 1))
    assert opened(folder).content_digest == before
    assert opened(folder, validation_fraction=0.3).content_digest != before
    assert opened(folder, ("cats", "owls")).content_digest != before
    (folder / "dogs" / "05.png").rename(folder / "dogs" / "055.png")
    assert opened(folder).content_digest != before


def test_several_processes_may_open_a_folder_at_once(folder: Path) -> None:
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(opened(folder).content_digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_and_threads_reads_the_same_global_batches(folder: Path, size: int) -> None:
    dataset = opened(folder)
    alone = take(dataset, threads=1)
    ranks = [take(dataset, rank, size, threads=3) for rank in range(size)]
    for step, whole in enumerate(alone):
        parts = [batches[step] for batches in ranks]
        assert sum((part.samples for part in parts), ()) == whole.samples
        prepared = [prepare_labelled(part, dataset.framing, CPU) for part in parts]
        images_BCHW, labels_B, masks = prepare_labelled(whole, dataset.framing, CPU)
        assert torch.equal(torch.cat([images for images, _, _ in prepared]), images_BCHW)
        assert torch.equal(torch.cat([labels for _, labels, _ in prepared]), labels_B)
        for name in WIDTHS:
            assert torch.equal(torch.cat([found[name] for _, _, found in prepared]), masks[name])


def test_a_batch_has_the_pictures_crops_and_masks_of_its_samples(folder: Path) -> None:
    dataset = opened(folder)
    seen = set()
    for batch in take(dataset):
        places = global_batch(EpochOrders(len(dataset.train), 3), 6, batch.step)
        assert batch.num_images == 6
        assert batch.indices.tolist() == [dataset.train[place.position] for place in places]
        images_BCHW, labels_B, masks = prepare_labelled(batch, dataset.framing, CPU)
        assert {tuple(mask.unique().tolist()) for mask in masks.values()} == {(0.0, 2.0)}
        for position, index in enumerate(batch.indices.tolist()):
            (top, left), flip = batch.draws.offsets_VB2[0, position].tolist(), batch.draws.flips_VB[0, position]
            seen |= {top, left}
            assert labels_B[position] == dataset.target(index)
            crop_HWC = dataset.images(index, [0])[0, top : top + 227, left : left + 227].astype(np.float64)
            crop_HWC = crop_HWC[:, ::-1] if flip else crop_HWC
            colour = batch.draws.background_VB3[0, position].numpy().astype(np.float64)
            alpha = crop_HWC[..., 3:] / 255
            expected_HWC = alpha * crop_HWC[..., :3] + (1 - alpha) * colour - 128
            np.testing.assert_allclose(images_BCHW[position].permute(1, 2, 0), expected_HWC, atol=1e-4)
    assert {0, 29} & seen  # both ends can be drawn
    assert max(seen) <= 29


def test_renderings_are_split_by_model_and_labelled_by_category(make_layout: LayoutMaker) -> None:
    root = make_layout({CHAIR: [f"c{number}" for number in range(10)], LAMP: [f"l{number}" for number in range(5)]})
    models = open_dataset(DataConfig(), root, 32, quiet, 2)
    dataset = LabelledRenderings(models, ("chair", "lamp"))
    assert len(dataset) == 30
    for part, of_models in (("train", models.train), ("validation", models.validation), ("test", models.test)):
        indices = getattr(dataset, part)
        names = [str(dataset.refs[index]) for index in indices]
        assert names == [f"{models.refs[index]}/{view:02d}" for index in of_models for view in range(2)]
    expected = split_r2n2(
        {ref.synset: [other for other in models.refs if other.synset == ref.synset] for ref in models.refs}, 0.1
    )
    assert {str(ref) for ref in expected.test} == {str(dataset.refs[index])[:-3] for index in dataset.test}
    for index in range(30):
        assert int(dataset.target(index)) == (0 if str(dataset.refs[index]).startswith(CHAIR) else 1)
        small = Image.fromarray(models.images(index // 2, [index % 2])[0])
        np.testing.assert_array_equal(
            dataset.images(index, [0])[0], np.asarray(small.resize((256, 256), Image.Resampling.BILINEAR))
        )
    assert [line.split()[0] for line in dataset.summary().splitlines()[1:]] == ["chair", "lamp", "all"]


def test_classes_of_renderings_are_categories_in_the_order_of_their_ids() -> None:
    assert category_names(None)[:2] == ("aeroplane", "bench")
    assert len(category_names(None)) == 13
    assert category_names(["lamp", CHAIR]) == ("chair", "lamp")
    with pytest.raises(ValueError, match="unknown category 'lamb'"):
        category_names(["lamb"])


@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_picture_lost_in_the_middle_is_replaced_by_the_next(folder: Path, fault: str) -> None:
    dataset = opened(folder)
    lost = int(dataset.train[3])
    path = folder / str(dataset.refs[lost])
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.unlink()
    config = DataConfig(damaged_samples="replace")
    settings: dict[str, object] = {"rank": 0, "size": 1, "seed": 0, "min_views": 1, "max_views": 1}
    with training_batches(
        dataset, indices=dataset.train, batch_size=6, start_step=0, end_step=4, config=config, **settings
    ) as batches:
        taken = list(batches)
    replaced = [text for batch in taken for text in batch.replaced]
    assert replaced
    assert all(
        text.startswith(f"{dataset.refs[int(dataset.train[4])]} takes the place of {dataset.refs[lost]} (")
        for text in replaced
    )
    assert not any(lost in batch.indices.tolist() for batch in taken)
    with pytest.raises(OSError, match=f"reading sample {dataset.refs[lost]} for step"):
        list(
            training_batches(
                dataset, indices=dataset.train, batch_size=6, start_step=0, end_step=4, config=DataConfig(), **settings
            )
        )
