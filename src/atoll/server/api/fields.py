"""Types of fields that every dialect's requests use: what no caller may send, whatever the language."""

from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StringConstraints


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


# Control has the limits that matter; this one keeps absurd names out of its messages.
MOST_NAME_CHARACTERS = 256

Text = Annotated[str, AfterValidator(_without_nul)]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MOST_NAME_CHARACTERS),
    AfterValidator(_without_nul),
]
# Of a template or snapshot, as E2B takes it: capitals and space around it mean nothing.
Reference = Annotated[Name, StringConstraints(strip_whitespace=True, to_lower=True)]
Texts = dict[Text, Text]

# Beyond this, arithmetic with dates overflows; control's own bound is a day or so.
MOST_SECONDS = 10**9
Seconds = Annotated[StrictInt, Field(le=MOST_SECONDS, ge=-MOST_SECONDS)]
Flag = StrictBool
