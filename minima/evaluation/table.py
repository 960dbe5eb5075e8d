"""`results.json` of an evaluation as a table for people."""

from collections.abc import Mapping
from typing import Any

from minima.benchmarks import BENCHMARKS, MODELS


def markdown(results: Mapping[str, Any]) -> str:
    """`results.json` as Markdown, beside the paper's numbers (arXiv 2311.07052) where they are by the same protocol."""
    lines = ["# Evaluation", ""]
    if results["benchmarks"]:
        lines += [
            f"| benchmark | protocol | shots | items | this model | {' | '.join(MODELS)} |",
            "|---" * (5 + len(MODELS)) + "|",
        ]
    notes = []
    for name, part in results["benchmarks"].items():
        benchmark = BENCHMARKS[name]
        error = "" if part["stderr"] is None else f" ± {100 * part['stderr']:.2f}"
        mark = " (partial)" if part["partial"] else ""
        published = [f"{number:.2f}" for number in benchmark.published if part["comparable"]] or ["–"] * len(MODELS)
        way = part["protocol"] + (", chat template" if part["chat_template"] else "")
        score = f"{100 * part['score']:.2f}{error}"
        lines.append(f"| {name}{mark} | {way} | {part['shots']} | {part['items']} | {score} | {' | '.join(published)} |")
        if benchmark.script:
            notes.append(f"- {name}: {part['metric'].removesuffix(',none')} by {part['task']}.")
        for metric, value in part["others"].items():
            notes.append(f"- {name}: {metric} {100 * value:.2f}.")
        notes += _positions(name, part)
        if part["partial"]:
            missing = f", and {len(part['missing_subjects'])} subjects are missing" if part["missing_subjects"] else ""
            copy = f"its copy has {part['rows_of_the_copy']} of {benchmark.whole} items" if benchmark.whole else "few items"
            notes.append(f"- {name}: not the whole benchmark ({copy}{missing}); not comparable.")
    if results["benchmarks"]:
        rule = "the other models' numbers are the paper's, and stand only beside what is measured by its protocol"
        lines += ["", f"All in percent; {rule}.", *notes]
    lines += _judged(results["judged"])
    if "perplexity" in results:
        part = results["perplexity"]
        lines += ["", f"Perplexity {part['dev_perplexity']:.4g} on {part['tokens']} held-out tokens."]
    if "answer" in results:
        quoted = results["answer"]["answer"].replace("\n", "\n> ")
        lines += ["", f"Asked “{results['answer']['question']}”, it said:", "", f"> {quoted}"]
    return "\n".join(lines) + "\n"


def cut(part: Mapping[str, Any]) -> str:
    """What to say of a benchmark whose prompts were cut."""
    return (
        f"{part['cut_prompts']} prompts are longer than this model's positions allow (the longest has "
        f"{part['longest_cut_prompt']} tokens), and their beginnings were cut off"
        + ("; fewer shots (--num_fewshot) are shorter" if part.get("shots") else "")
    )


def _positions(name: str, part: Mapping[str, Any]) -> list[str]:
    """What did not fit into the model's positions."""
    notes = []
    if part["generated_tokens_lowered_to"]:
        notes.append(f"- {name}: answers end after {part['generated_tokens_lowered_to']} tokens, to fit this model.")
    if part["cut_prompts"]:
        notes.append(f"- {name}: {cut(part)}.")
    return notes


def _judged(results: Mapping[str, Any]) -> list[str]:
    if not results:
        return []
    head = ["judged", "by", "questions", "score", "won", "even", "lost", "own mean", "reference's mean"]
    lines, notes = ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"], []
    for name, part in results.items():
        error = "" if part["stderr"] is None else f" ± {100 * part['stderr']:.2f}"
        cells = [
            name,
            part["judge"],
            part["items"],
            f"{100 * part['score']:.2f}{error}",
            part["win"],
            part["even"],
            part["loss"],
        ]
        cells += [f"{part['own_mean']:.2f}", f"{part['other_mean']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        if part["unjudged"] or part["without_reference"]:
            left = f"{part['unjudged']} refused by the judge, {part['without_reference']} without a reference answer"
            notes.append(f"- {name}: {left}.")
        notes += _positions(name, part)
    return [*lines, "", "Score: answers that are better in both orders, and half of the even ones, in percent.", *notes]
