"""Run by vLLM's own Python: the greedy tokens of each model folder named, as one line of JSON at the end."""

import json
import sys

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt


def main() -> None:
    """Arguments: the number of tokens, prompts as JSON lists of ids, and folders."""
    count, prompts, *folders = sys.argv[1:]
    chosen = SamplingParams(temperature=0, max_tokens=int(count), ignore_eos=True)
    wanted = [TokensPrompt(prompt_token_ids=ids) for ids in json.loads(prompts)]
    found = {}
    for folder in folders:
        llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, disable_log_stats=True)
        found[folder] = [list(answer.outputs[0].token_ids) for answer in llm.generate(wanted, chosen, use_tqdm=False)]
        del llm
    print(json.dumps(found))


if __name__ == "__main__":
    main()
