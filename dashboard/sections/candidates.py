"""The versions of a dataset's model: compared with the champion, promoted by a person; and trials made candidates."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from dashboard import cached, incidents, results, wording
from dashboard.components import job_progress, look
from dashboard.components.gallery import Tile, gallery
from dashboard.sections import model_card
from dashboard.session import WHO, workspace
from storage import studies
from storage.records import Model, ModelState, PromotionRule
from tuning.comparison import ModelComparison
from tuning.operating_points import threshold_of

TILES = 24  # pictures that two models disagree on
OPENED = "compare"  # in the address: the version whose comparison is open


def policy(name: str) -> None:
    """Draw who promotes, and let it be changed."""
    from storage.policies import promotion_policy
    from tuning import commands

    with workspace().session() as session:
        holds = promotion_policy(session, name)
    meanings = {
        PromotionRule.AUTOMATIC: "A study promotes its model where it is better on validation and not clearly worse on "
        "the sealed test.",
        PromotionRule.MANUAL: "Every new model waits here until a person promotes it, the first one too.",
    }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.segmented_control(
            "Promotions",
            [rule.value for rule in PromotionRule],
            default=holds.rule.value,
            key=f"policy {name} {holds.rule.value}",
            required=True,
        )
        since = f" Set by {holds.who}, {wording.moment(holds.set_at)}." if holds.who else ""
        st.caption(wording.plain(meanings[holds.rule] + since))
    if chosen is not None and chosen != holds.rule.value:
        commands.set_promotion_policy(workspace(), name, PromotionRule(chosen), who=WHO)
        st.rerun()


def show(name: str, found: Sequence[Model], champion: Model | None) -> None:
    """Draw all versions, the newest first; one of them may be open."""
    for model in found:
        with st.container(border=True):
            left, right = st.columns([5, 2], vertical_alignment="center")
            sentence = escape(results.test_sentence(model.figures))
            left.html(
                f'<div class="sn-line"><b>Version {model.version}</b>{look.note(model.state.value)}'
                f'<span class="sn-muted">{escape(wording.configuration(model.config))}</span></div>'
                f'<div class="sn-muted">{sentence}{_compared(model)}</div>'
            )
            if model.state is ModelState.CHAMPION:
                continue
            opened = st.query_params.get(OPENED) == str(model.version)
            label = "Close" if opened else "Compare and promote" if champion else "Look and promote"
            with right, st.container(horizontal=True, horizontal_alignment="right"):
                st.button(
                    label,
                    key=f"compare {model.version}",
                    icon=":material/compare_arrows:" if not opened else ":material/close:",
                    on_click=_open,
                    args=[None if opened else model.version],
                )
            if opened:
                _opened(name, model, champion)


def another_trial(name: str, found: Sequence[Model]) -> None:
    """Let a person make any completed trial a candidate, and say what that costs."""
    from tuning import candidates, jobs, queries

    with workspace().session() as session:
        finished = [study for study in studies.list_studies(session, dataset=name) if study.state.finished]
    with st.expander("Make another trial a candidate", icon=":material/add_task:"):
        if not finished:
            st.caption("No study has ended yet; its best trial becomes a candidate by itself.")
            return
        names = {study.id: study.name for study in finished}
        with st.container(horizontal=True, vertical_alignment="bottom"):
            study_id = st.selectbox(
                "Study", list(names), format_func=lambda one: names[one], key="candidate study", width=260
            )
            study = next(study for study in finished if study.id == study_id)
            trials = [one for one in queries.study_trials(workspace(), study) if one.state == "completed"]
            made = {model.trial_number: model for model in found if model.study_id == study_id}
            labels = {
                one.number: f"trial {one.number + 1} · {wording.number(one.value)} · "
                f"{wording.configuration(one.params)}"
                + (f" · is version {made[one.number].version}" if one.number in made else "")
                for one in sorted(trials, key=lambda one: -(one.value or 0.0))
            }
            number = st.selectbox(
                "Completed trial",
                list(labels),
                format_func=lambda one: labels[one],
                key=f"candidate trial {study_id}",
                placeholder="no trial completed",
            )
        if number is None:
            return
        readings = candidates.sealed_readings(workspace(), study.dataset_version_id)
        version = cached.version(study.dataset_version_id)
        st.caption(
            f"{model_card.readings_sentence(readings, version.number)} Judging this trial reads them "
            "once more, which is recorded: the more models are judged by them, the less the best one's figures mean."
        )
        key = candidates.job_key(study.id, number)
        job = jobs.status(workspace().settings, key)
        if job_progress.watch(job, words=lambda one: job_progress.counted(one, "pictures")):
            return
        if job is not None and job.error:
            incidents.refused(job.error)
        if number in made:
            st.caption(f"This trial is version {made[number].version} already.")
            return
        if st.button("Judge it and make it a candidate", icon=":material/lock_open:"):
            with incidents.shown():
                candidates.start_candidate(workspace(), study.id, number, who=WHO)
                st.rerun()


def _open(version: int | None) -> None:
    if version is None:
        st.query_params.pop(OPENED, None)
    else:
        st.query_params[OPENED] = str(version)


def _compared(model: Model) -> str:
    """How it did against the champion of its time, on the same test pictures."""
    comparison = model.figures.get("comparison")
    if not comparison:
        return ""
    low, high = _signed(comparison["low"]), _signed(comparison["high"])
    difference = f"{_signed(comparison['difference'])} ({low} to {high})"
    return f" · {difference} against version {comparison['against_version']} on the same pictures"


def _opened(name: str, model: Model, champion: Model | None) -> None:
    st.divider()
    if champion is not None:
        with incidents.shown():
            _comparison(model, champion)
    with st.expander("Card", expanded=champion is None):
        model_card.show(model)
    _promote_form(name, model)


def _comparison(model: Model, champion: Model) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**What differs**")
        rows = _differing(model, champion)
        if rows:
            columns = ["", f"version {model.version}", f"champion, version {champion.version}"]
            st.dataframe(pd.DataFrame(rows, columns=columns), hide_index=True)
        else:
            st.caption("Nothing: dataset version, configuration and threshold are the same.")
    found = cached.model_comparison(model.id, champion.id)
    with right:
        st.markdown("**On the same sealed pictures**")
        _difference(found, model, champion)
    _disagreements(found, model, champion)


def _differing(model: Model, champion: Model) -> list[tuple[str, str, str]]:
    pairs = [
        (
            "Dataset version",
            *(str(cached.version(one.dataset_version_id).number) for one in (model, champion)),
        ),
        ("Threshold", *(wording.number(threshold_of(workspace(), one), 4) for one in (model, champion))),
        (
            "Image AUROC, test",
            *(
                wording.with_interval(test.get("image_auroc"), results.interval(test, "image_auroc"))
                for test in ((one.figures.get("test") or {}) for one in (model, champion))
            ),
        ),
        ("Latency", *(results.latency_sentence(one.figures, short=True) for one in (model, champion))),
    ]
    keys = [*model.config, *(key for key in champion.config if key not in model.config)]
    for key in keys:
        ours, theirs = (_setting(one.config.get(key, "–")) for one in (model, champion))
        pairs.append((wording.knob(key), ours, theirs))
    return [pair for pair in pairs if pair[1] != pair[2]]


def _setting(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return wording.layers(value) if isinstance(value, list | tuple) else wording.knob_value(value)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _difference(found: ModelComparison, model: Model, champion: Model) -> None:
    interval = f"({wording.number(found.low)} to {wording.number(found.high)})"
    st.html(
        f'<div class="sn-muted">Image AUROC of version {model.version} minus that of version {champion.version}</div>'
        f'<div><span class="sn-big">{_signed(found.difference)}</span> <span class="sn-muted">{interval} on '
        f"{wording.plural(len(found.pictures), 'sealed test picture')}</span></div>"
    )
    if found.low > 0:
        verdict = "It is better: the whole 95 % interval lies above 0."
    elif found.high < 0:
        verdict = "It is worse: the whole 95 % interval lies below 0."
    else:
        verdict = "The pictures can't tell which is better: the 95 % interval holds 0."
    st.caption(verdict)
    rows = []
    for label, decisions in (
        (f"version {model.version}", [one.decision for one in found.pictures]),
        (f"champion, version {champion.version}", [one.other_decision for one in found.pictures]),
    ):
        truths = [one.picture.anomalous for one in found.pictures]
        pairs = list(zip(decisions, truths, strict=True))
        false_rejects = sum(decision == "reject" and not truth for decision, truth in pairs)
        escapes = sum(decision == "accept" and truth for decision, truth in pairs)
        rows.append((label, false_rejects, escapes))
    st.dataframe(pd.DataFrame(rows, columns=["", "false rejects", "escapes"]), hide_index=True)


def _disagreements(found: ModelComparison, model: Model, champion: Model) -> None:
    differing = found.disagreements
    if not differing:
        st.caption("They decide every one of these pictures alike.")
        return
    st.markdown(f"**They disagree on {wording.plural(len(differing), 'picture')}**")
    gallery(
        [
            Tile(
                id=one.picture.key,
                source=cached.thumbnail_url(one.picture.image.digest),
                title=f"{one.picture.image.name}: version {model.version} says {one.decision} "
                f"({wording.number(one.score)}), version {champion.version} {one.other_decision} "
                f"({wording.number(one.other_score)})",
                caption=one.decision,
                decision=one.decision,
                detail=f"v{champion.version}: {one.other_decision}",
                note=f"truth: {(one.picture.defect_type or 'normal').replace('_', ' ')}",
            )
            for one in differing[:TILES]
        ],
        key=f"disagreements {model.version}",
        on_pick=lambda _: None,
        tile_width=130,
    )
    if len(differing) > TILES:
        st.caption(f"and {len(differing) - TILES:,} more")


def _promote_form(name: str, model: Model) -> None:
    from tuning.commands import promote

    st.write(
        f"Promoted, version {model.version} will decide on new pictures of {name} from now on. The present champion "
        "stays and can be promoted again."
    )
    with st.form(f"promote {model.version}", border=False):
        why = st.text_input("Reason, for the record", key=f"why {model.version}")
        if st.form_submit_button(f"Promote version {model.version}", type="primary"):
            if not why.strip():
                st.error("The reason is empty; a promotion is recorded with one. Write a few words.")
                return
            promote(workspace(), name, model.version, who=WHO, why=why.strip())
            _open(None)
            st.rerun()
