"""Twenty prompts: six sentences, of which one holds the answer to the question behind them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """Sentences, a question, the answer, and the index of the sentence that holds it."""

    sentences: tuple[str, ...]
    question: str
    answer: str
    relevant: int


def _planted(text: str, question: str, answer: str, relevant: int) -> Planted:
    sentences = tuple(part.strip() + "." for part in text.split(".") if part.strip())
    return Planted(sentences, question, answer, relevant)


PROMPTS = (
    _planted(
        "The ferry leaves at nine. Marta bakes rye bread. The harbour is shallow. Her brother paints boats. "
        "Gulls sleep on the roof. The lamp is green",
        "What does Marta bake?",
        " Rye bread",
        1,
    ),
    _planted(
        "Tomas lives in Oulu. The bus is red. His garden has three pears. It rained on Monday. The cellar is cold. "
        "Nobody sells candles here",
        "In which city does Tomas live?",
        " Oulu",
        0,
    ),
    _planted(
        "The library opens at ten. A cat guards the stairs. The old clock stopped in 1912. Pia reads maps. "
        "The floor is made of oak. Two windows face north",
        "In which year did the clock stop?",
        " 1912",
        2,
    ),
    _planted(
        "Snow fell in May. The miller has a limp. Bees like the lime tree. The road ends at a well. "
        "The baker's horse is called Juno. Corn is dear this year",
        "What is the baker's horse called?",
        " Juno",
        4,
    ),
    _planted(
        "Engine three was repaired. The pilot is from Chile. Fuel costs more now. The hangar has a blue door. "
        "The mechanic's name is Ines. Coffee is free",
        "Which country is the pilot from?",
        " Chile",
        1,
    ),
    _planted(
        "The choir sings on Friday. Olav plays the cello. The hall has no heating. Tickets cost four crowns. "
        "The conductor wears a hat. A dog waits outside",
        "What does Olav play?",
        " The cello",
        1,
    ),
    _planted(
        "The museum shows coins. Its guard collects stamps. The oldest coin is Roman. A school class came today. "
        "The cafe sells soup. The lift is broken",
        "What does the guard collect?",
        " Stamps",
        1,
    ),
    _planted(
        "Water boils in the kettle. Hana studies moths. The attic smells of tar. Her desk has six drawers. "
        "The key is under the mat. Rain drums on the glass",
        "Where is the key?",
        " Under the mat",
        4,
    ),
    _planted(
        "The train was late. Karl forgot his umbrella. The station has two clocks. A fox crossed the rails. "
        "The signal is yellow. The guard whistles waltzes",
        "What did Karl forget?",
        " His umbrella",
        1,
    ),
    _planted(
        "The vineyard faces south. Its owner is a doctor. The wine is white. Frost came in April. "
        "The press dates from 1840. Swallows nest above it",
        "What is the owner of the vineyard?",
        " A doctor",
        1,
    ),
    _planted(
        "Ebba sells umbrellas. The market is on Tuesday. Her van has a flat tyre. The fountain is dry. "
        "Her sister weaves carpets. The square is round",
        "What does Ebba's sister weave?",
        " Carpets",
        4,
    ),
    _planted(
        "The lighthouse is ninety feet tall. Its keeper grows tomatoes. The fog horn is new. Seals rest below. "
        "The stairs are steep. A radio plays all night",
        "What does the keeper grow?",
        " Tomatoes",
        1,
    ),
    _planted(
        "The chess club meets at noon. Its best player is Noor. The tables are marble. Tea is served at two. "
        "The prize is a silver spoon. The door squeaks",
        "Who is the best player?",
        " Noor",
        1,
    ),
    _planted(
        "The river froze in January. Jonas builds violins. The bridge is closed. His shop smells of glue. "
        "A violin costs nine hundred. The street has no name",
        "What does Jonas build?",
        " Violins",
        1,
    ),
    _planted(
        "The hotel has forty rooms. The cook comes from Lyon. Breakfast ends at ten. The pool is empty. "
        "The porter speaks Greek. The beds are hard",
        "Which language does the porter speak?",
        " Greek",
        4,
    ),
    _planted(
        "The farm has eleven goats. The oldest goat is called Berta. Hay is stored in the barn. The fence needs paint. "
        "A storm is coming. The tractor is rented",
        "How many goats does the farm have?",
        " Eleven",
        0,
    ),
    _planted(
        "The printer is out of ink. Lena ordered paper. The meeting is in room seven. The window is open. "
        "The phone rings twice. Someone left a scarf",
        "In which room is the meeting?",
        " Room seven",
        2,
    ),
    _planted(
        "The island has one shop. It sells rope and nails. The teacher rows to school. The flag is torn. "
        "The well is deep. The priest keeps owls",
        "What does the priest keep?",
        " Owls",
        5,
    ),
    _planted(
        "The comet was seen in March. Its tail was green. The telescope belongs to Rafi. The hill is bare. "
        "The night was clear. Nobody slept",
        "To whom does the telescope belong?",
        " Rafi",
        2,
    ),
    _planted(
        "The bakery burnt down. The mayor gave a speech. A new oven comes from Turin. The bricks are old. "
        "The opening is in June. Bread is sold from a tent",
        "Where does the new oven come from?",
        " Turin",
        2,
    ),
)
