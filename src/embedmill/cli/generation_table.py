"""How generations are shown: a table for people, records for programs. Owns the words only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedmill.embed.generation_states import GenerationState


def generation_record(state: GenerationState) -> dict[str, Any]:
    """For programs."""
    comparison = state.comparison
    return {
        "number": state.number,
        "stage": str(state.stage),
        "model": state.spec.model,
        "provider": state.spec.provider,
        "dimensions": state.dimensions,
        "storage": state.storage,
        "chunk_tokens": state.chunk_plan.max_tokens,
        "chunk_overlap": state.chunk_plan.overlap_tokens,
        "coverage": round(state.coverage, 6),
        "chunks": state.chunks,
        "embedded": state.embedded,
        "unembeddable": state.unembeddable,
        "waiting_items": state.waiting,
        "uncut_documents": state.uncut,
        "failed": state.failed,
        "cost_usd": None if state.cost_usd is None else float(state.cost_usd),
        "tokens": state.tokens,
        "budget_usd": None if state.budget_usd is None else float(state.budget_usd),
        "stopped_reason": state.stopped_reason,
        "vectors": f"embedmill.vectors_{state.id}",
        "comparison": None
        if comparison is None
        else {
            "with_number": comparison.with_number,
            "samples": comparison.samples,
            "things": comparison.things,
            "median": comparison.median,
            "worst": comparison.worst,
        },
    }


def show_generations(states: list[GenerationState]) -> None:
    """For people: one line each, and why one does not go on."""
    from embedmill.core.pricing import format_usd

    print("generations")
    for state in states:
        stage = str(state.stage)
        if state.is_unfinished:
            stage = f"{stage} {state.coverage:.0%}"
        parts = [
            f"{state.number:>3}  {stage:<14} {state.spec.model} {state.dimensions} ({state.storage})",
            f"chunks of {state.chunk_plan.max_tokens}",
            f"{state.embedded:,} of {state.chunks - state.unembeddable:,} embedded",
        ]
        if state.build_started_at is not None:
            parts.append(f"built for {format_usd(state.cost_usd)}")
        if state.failed:
            parts.append(f"{state.failed} failed")
        print(", ".join(parts))
        if state.stopped_reason and state.is_unfinished:
            print(f"     it does not go on: {state.stopped_reason}")
        if state.comparison is not None:
            print(f"     {comparison_sentence(state)}")


def comparison_sentence(state: GenerationState) -> str:
    found = state.comparison
    assert found is not None  # noqa: S101 - asked for where there is one
    return (
        f"of the ten nearest {found.things}, {found.median:.0%} are those of generation {found.with_number} too "
        f"(median of {found.samples} samples, worst {found.worst:.0%})"
    )
