"""All contexts, and which of them is a language's own."""

import asyncio

from interpreter import languages, limits
from interpreter.context import Context
from interpreter.languages import Language

HOME = "/home/user"


class TooManyContextsError(Exception):
    """There are as many contexts as there may be."""


class Contexts:
    """Makes, finds and removes contexts."""

    def __init__(self) -> None:
        self._all: dict[str, Context] = {}
        # The one that code runs in which names a language only; most are made when somebody asks for it.
        self._own: dict[str, Context] = {}
        self._making = asyncio.Lock()

    def list(self) -> list[Context]:
        """Return all contexts, oldest first."""
        return list(self._all.values())

    def get(self, context_id: str) -> Context | None:
        """Find a context by its id."""
        return self._all.get(context_id)

    async def prepare(self) -> None:
        """
        Make what every sandbox has from its beginning: contexts for Python and JavaScript.

        Python's kernel runs. JavaScript's starts with its first cell: most sandboxes would pay for it, and
        never use it.

        Raises:
            KernelEndedError: Python's kernel does not start.
        """
        await self.own(_named("python"))
        javascript = Context(_named("javascript"), HOME)
        self._all[javascript.id] = self._own[javascript.language.name] = javascript

    async def create(self, language: Language, cwd: str = HOME) -> Context:
        """
        Make a context whose kernel runs.

        Raises:
            TooManyContextsError: there are as many as there may be.
            KernelEndedError: the kernel does not start.
        """
        if len(self._all) >= limits.CONTEXTS:
            raise TooManyContextsError(f"there are {limits.CONTEXTS} contexts already, which is the limit")
        context = Context(language, cwd)
        self._all[context.id] = context
        try:
            await context.start()
        except BaseException:
            self._all.pop(context.id, None)
            raise
        return context

    async def own(self, language: Language) -> Context:
        """Return a language's own context; made at its first use. Raises what ``create`` raises."""
        async with self._making:
            if language.name not in self._own:
                self._own[language.name] = await self.create(language)
            return self._own[language.name]

    async def remove(self, context: Context) -> None:
        """End a context; a language's own is made anew when somebody asks for it."""
        self._all.pop(context.id, None)
        if self._own.get(context.language.name) is context:
            del self._own[context.language.name]
        await context.remove()

    async def close(self) -> None:
        """End all contexts, at once: one may take as long as all."""
        await asyncio.gather(*(self.remove(context) for context in self.list()))


def _named(name: str) -> Language:
    language = languages.find(name)
    assert language is not None
    return language
