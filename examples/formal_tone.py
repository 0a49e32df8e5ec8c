"""Does a language model know a formal tone? The concept's significance in each block, and a letter steered both ways.

Run: python examples/formal_tone.py --out formal_tone.png   (needs the extras demo and plot)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import torch

import llm_attr
from llm_attr.llm.concept.steering import steer
from llm_attr.llm.concept.text_tcav import TextTCAV

BLOCKS = [2, 8, 14, 20, 26]
STEERED = 14
PAIRS = [
    ("I regret to inform you that the meeting has been postponed.", "Sorry, the meeting's been pushed back."),
    ("Please do not hesitate to contact me should you require assistance.", "Just give me a shout if you need help."),
    ("We would be grateful for your response at your earliest convenience.", "Get back to us soon, okay?"),
    ("I am writing to request a copy of the report.", "Hey, can you send me that report?"),
    ("Kindly confirm your attendance before Friday.", "Let me know by Friday if you're coming."),
    ("We wish to express our sincere gratitude for your support.", "Thanks a bunch for helping us out!"),
    ("The committee has decided to decline the proposal.", "Yeah, they said no to the idea."),
    ("I would like to apologise for any inconvenience caused.", "My bad, sorry about the mess."),
    ("It would be appreciated if you could arrive promptly.", "Don't be late, alright?"),
    ("The undersigned hereby accepts the terms of the agreement.", "Sure, I'm cool with the deal."),
    ("We are pleased to offer you the position of assistant.", "Guess what, you got the job!"),
    ("Permit me to introduce our new colleague.", "Hey everyone, meet the new guy."),
    ("Your application has been received and is under review.", "Got your form, we're taking a look."),
    ("I respectfully disagree with your assessment.", "Nah, I don't think so."),
    ("The invoice remains outstanding and requires your attention.", "You still owe us some cash."),
    ("We kindly request that visitors refrain from smoking.", "Hey, no smoking in here, guys."),
    ("I should be obliged if you would forward the documents.", "Can you shoot me those papers?"),
    ("The matter will be addressed in due course.", "We'll get to it, no worries."),
    ("It is with great pleasure that I accept your invitation.", "Awesome, I'd love to come!"),
    ("We trust that this arrangement meets your requirements.", "Hope that works for you!"),
]
PROMPTS = [
    "The letter about the garden ended with the words:",
    "He had waited a week for an answer, so at last he wrote:",
    "At the end of the message about the trip she wrote:",
    "The note on the door of the shop said:",
    "In the reply to the question about the price stood:",
    "The last line of the mail about the party was:",
    "When the parcel did not come, the customer wrote:",
    "The answer to the invitation began with:",
]
TARGET, FOIL = " Yours sincerely", " See ya"
START = "Hello Anna,\nabout the meeting tomorrow:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("formal_tone.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    lm = llm_attr.load_model("smollm2-135m")
    formal, casual = ([pair[side] for pair in PAIRS] for side in (0, 1))
    tcav = TextTCAV(lm, BLOCKS)

    directions = tcav.directions(formal, casual, held_out=0.3)
    for layer, direction in directions.items():
        print(f"{layer}: {direction.accuracy:.0%} of held-out sentences on the right side")
    found = tcav.significance(PROMPTS, formal, casual, TARGET, FOIL, runs=10, name="formal tone")
    print(found)
    figure, _ = found.plot(title="A formal tone moves SmolLM2 from “See ya” to “Yours sincerely”")
    figure.savefig(out, dpi=150)

    layer = tcav.layers[BLOCKS.index(STEERED)]
    generation = {"max_new_tokens": 30, "do_sample": False, "repetition_penalty": 1.2}
    print(steer(lm, START, layer, directions[layer], (-1.5, 0.0, 1.5), generation))
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
