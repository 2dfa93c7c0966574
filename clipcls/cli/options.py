"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from clipcls.cli.completion import a_label_set, a_model, a_prompt_set

_ANSWER, _INPUT, _MODEL, _OUTPUT, _ENGINE = "Answer", "Images", "Model", "Output", "Engine"

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bar, notice or summary.", rich_help_panel=_OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON.")]
Format = Annotated[str | None, typer.Option("--format", "-f", help="table, csv or jsonl.", rich_help_panel=_OUTPUT)]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=a_model,
        help="A name (clipcls models list), ARCH/TAG, hf-hub:ORG/REPO, hf:ORG/REPO, or a folder.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MODEL)]
Cache = Annotated[bool, typer.Option(help="Keep embeddings for the next run.", rich_help_panel=_MODEL)]

Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", "-l", help="Labels, separated by , or ， or 、; 大象|象 are synonyms."),
]
LabelsFile = Annotated[
    str | None,
    typer.Option(
        autocompletion=a_label_set,
        help="A file of labels (text, CSV, TOML, JSON, YAML), or a set's name (clipcls labels list).",
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        "-p",
        autocompletion=a_prompt_set,
        help="A prompt set (clipcls prompts list), a file, or a template such as '一张{类别}的照片'; "
        "repeat it for the union. By default the labels' script chooses zh or en.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Least probability of an answer; below it: uncertain.", rich_help_panel=_ANSWER
    ),
]
Margin = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Least lead in probability over the next label.", rich_help_panel=_ANSWER),
]
Background = Annotated[
    list[str] | None, typer.Option(help="Labels that compete but are never the answer.", rich_help_panel=_ANSWER)
]

Recursive = Annotated[bool, typer.Option(help="Search folders to any depth.", rich_help_panel=_INPUT)]
Include = Annotated[list[str] | None, typer.Option(help="Only files that match this glob.", rich_help_panel=_INPUT)]
Exclude = Annotated[
    list[str] | None, typer.Option(help="No files or folders that match this glob.", rich_help_panel=_INPUT)
]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Pixels of the largest picture to decode.", rich_help_panel=_INPUT)
]
TimeLimit = Annotated[
    int | None, typer.Option(min=1, help="Seconds to wait for one picture to be decoded.", rich_help_panel=_INPUT)
]
Fps = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=100, help="Frames a second of videos, in folders, too; else 1.", rich_help_panel=_INPUT
    ),
]
Scenes = Annotated[bool, typer.Option("--scenes", help="Of videos one frame a scene instead.", rich_help_panel=_INPUT)]
ImageColumn = Annotated[
    str | None, typer.Option(help="Which column of a table holds the images.", rich_help_panel=_INPUT)
]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after N images.", rich_help_panel=_INPUT)]
Null = Annotated[bool, typer.Option("-0", help="Paths on stdin end in NUL bytes.", rich_help_panel=_INPUT)]

Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16 or int8.", rich_help_panel=_MODEL)]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at once.", rich_help_panel=_MODEL)]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read and decode.", rich_help_panel=_MODEL)]

Engine = Annotated[str, typer.Option(help="local, or ray for many machines.", rich_help_panel=_ENGINE)]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster: auto or HOST:PORT.", rich_help_panel=_ENGINE)]
Actors = Annotated[int | None, typer.Option(min=1, help="How many encoders Ray starts.", rich_help_panel=_ENGINE)]
GpusPerActor = Annotated[
    float | None, typer.Option(min=0.0, help="Graphics cards of each; 0.5 for half a card.", rich_help_panel=_ENGINE)
]
ShardSize = Annotated[
    int | None,
    typer.Option(min=1, help="Images in each file of a folder of results; else 1000.", rich_help_panel=_ENGINE),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a cut-off run.", rich_help_panel=_OUTPUT)]
