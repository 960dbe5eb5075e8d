"""Finetune a model on chat records, whole or by LoRA adapters that are merged at the end."""

import shutil
import sys
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from minima.data.chat import TEMPLATE_FILE
from minima.data.records import Records
from minima.models import pretrained
from minima.options import Finetune
from minima.training import folders, loss, stage
from minima.workspace.artifact import Output

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(options: Finetune, output: Output) -> dict[str, Any]:
    """Write the finetuned model to `output.folder` and return the metrics; `stage.run` says what is raised.

    With LoRA the folder's root is the merged model, and `adapter/` the adapters alone, as peft loads them.
    """
    name = options.model_name_or_path

    def begin() -> tuple[Any, loss.BatchLoss]:
        llama: Any = folders.model(name, options)
        if options.lora_r:
            torch.manual_seed(options.seed)
            llama = with_adapters(llama, options)
        return llama, loss.cross_entropy(options.loss_chunk_size)

    def end(llama: Any, records: Records) -> None:
        if options.lora_r:
            llama.peft_config["default"].base_model_name_or_path = str(folders.place(name))
            llama.save_pretrained(output.folder / "adapter", save_embedding_layers=False)
            llama = merged(llama)
        folders.write(llama, name, options, output)
        copy_template(records, output)

    patience = options.num_patience_epochs
    return stage.run(options, output, begin, end, records="train_record_path_or_regex", num_patience_epochs=patience)


def with_adapters(llama: pretrained.Model, options: Finetune) -> PeftModel:
    """A LLaMA whose linear layers have adapters, and whose output layer is trained in full.

    A tied output layer gets weights of its own first: training it must not change the frozen embedding, nor the merge.
    """
    if llama.config.tie_word_embeddings:
        llama.lm_head.weight = torch.nn.Parameter(llama.lm_head.weight.detach().clone())
        llama.config.tie_word_embeddings = False
    lora = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=["lm_head"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 asks by the old name.
        return get_peft_model(llama, lora, autocast_adapter_dtype=False)


def merged(adapted: PeftModel) -> pretrained.Model:
    """The plain LLaMA that computes what `adapted` does; merged in fp32, in place."""
    for parameter in adapted.parameters():
        parameter.data = parameter.data.float()
    return adapted.merge_and_unload()


def copy_template(records: Records, output: Output) -> None:
    """Put the chat template that build-chat-data wrote beside the training records into the model folder."""
    beside = [path.parent / TEMPLATE_FILE for path in records.paths]  # There are sources of running text too.
    template = next((place for place in beside if place.is_file()), None)
    if template:
        shutil.copyfile(template, output.folder / TEMPLATE_FILE)
    else:
        print(f"no {TEMPLATE_FILE} beside {records.paths[0]}: the model keeps the one it came with, if any", file=sys.stderr)
