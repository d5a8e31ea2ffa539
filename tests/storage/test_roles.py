from collections import Counter
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BadVersion, DuplicateImage, TooFewImages
from storage.records import Label, Role
from storage.roles import CALIBRATION_MINIMUM, RoleInput, assign_roles


def entry(
    name: str,
    split: Literal["train", "test"] | None,
    defect_type: str | None = None,
    *,
    anomalous: bool = False,
) -> RoleInput:
    return RoleInput(
        pixel_digest=sha256(name.encode()).hexdigest(),
        split=split,
        label=Label.ANOMALOUS if anomalous or defect_type else Label.NORMAL,
        defect_type=defect_type,
    )


def entries(
    split: Literal["train", "test"] | None, number: int, defect_type: str | None = None
) -> list[RoleInput]:
    return [entry(f"{split} {defect_type} {index}", split, defect_type) for index in range(number)]


def counted(given_entries: list[RoleInput]) -> dict[Role, int]:
    return dict(Counter(assign_roles(given_entries)))


defects = st.dictionaries(
    st.sampled_from(["scratch", "dent", "stain", "hole"]), st.integers(1, 12), max_size=4
)


@st.composite
def sources(draw: st.DrawFn) -> list[RoleInput]:
    """Sources with a split, without one, and mixed ones, in any order."""
    split = draw(st.booleans())
    found = entries("train", draw(st.integers(2, 60))) if split else []
    found += entries("test", draw(st.integers(2, 40))) if split else entries(None, draw(st.integers(4, 150)))
    for defect_type, number in draw(defects).items():
        found += entries("test" if split else None, number, defect_type)
    if draw(st.booleans()):
        found.append(entry("of unknown kind", "test" if split else None, anomalous=True))
    return draw(st.permutations(found))


@given(source=sources())
def test_every_image_gets_one_role_that_its_label_and_split_allow(source: list[RoleInput]) -> None:
    roles = assign_roles(source)
    assert len(roles) == len(source)
    for one, role in zip(source, roles, strict=True):
        if one.label is Label.ANOMALOUS or one.split == "test":
            assert role in (Role.VALIDATION, Role.TEST)
        if one.split == "train":
            assert role in (Role.TRAIN, Role.CALIBRATION)


@given(source=sources(), order=st.randoms(use_true_random=False))
def test_roles_do_not_depend_on_the_order(source: list[RoleInput], order: Random) -> None:
    by_picture = dict(zip(source, assign_roles(source), strict=True))
    shuffled = list(source)
    order.shuffle(shuffled)
    assert assign_roles(shuffled) == [by_picture[one] for one in shuffled]


@given(source=sources())
def test_validation_and_test_share_every_defect_type_and_the_whole_in_halves(source: list[RoleInput]) -> None:
    roles = assign_roles(source)
    whole: Counter[Role] = Counter()
    strata: dict[tuple[Label, str | None], Counter[Role]] = {}
    for one, role in zip(source, roles, strict=True):
        if role in (Role.VALIDATION, Role.TEST):
            whole[role] += 1
            strata.setdefault((one.label, one.defect_type), Counter())[role] += 1
    for halves in (whole, *strata.values()):
        assert abs(halves[Role.VALIDATION] - halves[Role.TEST]) <= 1


@given(source=sources())
def test_every_role_has_a_normal_image_and_training_at_least_as_many_as_calibration(
    source: list[RoleInput],
) -> None:
    normal = Counter(
        role for one, role in zip(source, assign_roles(source), strict=True) if one.label is Label.NORMAL
    )
    assert all(normal[role] > 0 for role in Role)
    assert normal[Role.TRAIN] >= normal[Role.CALIBRATION]


@pytest.mark.parametrize(
    ("train", "calibration"), [(2, 1), (10, 5), (38, 19), (60, 19), (95, 19), (107, 21), (1000, 200)]
)
def test_calibration_is_a_fifth_but_enough_for_five_percent_and_never_over_half(
    train: int, calibration: int
) -> None:
    found = counted(entries("train", train) + entries("test", 4))
    assert found[Role.CALIBRATION] == calibration
    assert found[Role.TRAIN] == train - calibration


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (4, (1, 1, 1, 1)),
        (20, (7, 7, 3, 3)),
        (60, (23, 19, 9, 9)),
        (100, (50, 20, 15, 15)),
        (1000, (500, 200, 150, 150)),
    ],
)
def test_normal_images_without_split_are_shared_among_all_roles(
    number: int, expected: tuple[int, int, int, int]
) -> None:
    found = counted(entries(None, number))
    assert (found[Role.TRAIN], found[Role.CALIBRATION], found[Role.VALIDATION], found[Role.TEST]) == expected


def test_nineteen_calibration_images_guarantee_five_percent() -> None:
    # The conformal quantile ceil((n + 1) * 0.95) must not exceed n.
    assert -(-(CALIBRATION_MINIMUM + 1) * 95 // 100) <= CALIBRATION_MINIMUM
    assert -(-CALIBRATION_MINIMUM * 95 // 100) > CALIBRATION_MINIMUM - 1


def test_roles_of_given_pixels_never_change() -> None:
    # Guards the rule itself: another assignment would put sealed test images into other roles at the next version.
    source = (
        entries("train", 40) + entries("test", 6) + entries("test", 5, "dent") + entries("test", 3, "stain")
    )
    letters = {Role.TRAIN: ".", Role.CALIBRATION: "c", Role.VALIDATION: "v", Role.TEST: "t"}
    assert (
        "".join(letters[role] for role in assign_roles(source))
        == "c.c.c.c.c.c.c.cccc.c.cc.c.ccc........c..vvttvtvvtvttvt"
    )


def test_same_picture_twice_is_refused() -> None:
    with pytest.raises(DuplicateImage, match="stands twice among 6 images"):
        assign_roles([*entries(None, 5), entry("None None 3", "test")])


def test_anomalous_training_picture_is_refused() -> None:
    with pytest.raises(BadVersion, match="training pictures must be normal"):
        assign_roles([*entries("train", 5), entry("bad", "train", "scratch")])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "There are 0 pictures of normal parts in train/good"),
        (entries(None, 3), "There are 3 pictures of normal parts; at least 4"),
        (entries("train", 1) + entries("test", 9), "1 pictures of normal parts in train/good"),
        (entries("train", 9) + entries("test", 1), "1 pictures of normal parts in test/good"),
        (entries("train", 9) + entries("test", 9, "scratch"), "0 pictures of normal parts in test/good"),
    ],
)
def test_too_few_normal_pictures_are_refused(source: list[RoleInput], message: str) -> None:
    with pytest.raises(TooFewImages, match=message):
        assign_roles(source)


@given(former=sources(), added=st.lists(st.sampled_from(["train", "test", None]), max_size=40))
def test_images_that_have_a_role_keep_it_when_others_come(
    former: list[RoleInput], added: list[Literal["train", "test"] | None]
) -> None:
    known = {one.pixel_digest: role for one, role in zip(former, assign_roles(former), strict=True)}
    grown = former + [entry(f"added {number}", split) for number, split in enumerate(added)]
    roles = {one.pixel_digest: role for one, role in zip(grown, assign_roles(grown, known), strict=True)}
    assert {digest: roles[digest] for digest in known} == known
    for one in grown[len(former) :]:
        allowed = {
            "train": {Role.TRAIN, Role.CALIBRATION},
            "test": {Role.VALIDATION, Role.TEST},
            None: set(Role),
        }[one.split]
        assert roles[one.pixel_digest] in allowed


def test_added_images_fill_up_the_roles_that_lack_some() -> None:
    former = entries(None, 10)
    known = {one.pixel_digest: role for one, role in zip(former, assign_roles(former), strict=True)}
    grown = former + [entry(f"added {number}", None) for number in range(190)]
    assert Counter(assign_roles(grown, known)) == Counter(assign_roles(entries(None, 200)))


def test_training_image_that_turns_out_anomalous_goes_to_validation() -> None:
    former = [*entries("train", 10), *entries("test", 10)]
    known = {one.pixel_digest: role for one, role in zip(former, assign_roles(former), strict=True)}
    trained = next(one for one in former if known[one.pixel_digest] is Role.TRAIN)
    relabelled = [
        replace(one, split=None, label=Label.ANOMALOUS, defect_type="dent") if one is trained else one
        for one in former
    ]
    roles = assign_roles(relabelled, known)
    assert roles[former.index(trained)] is Role.VALIDATION
