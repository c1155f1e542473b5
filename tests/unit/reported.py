"""An app that takes its settings from the environment, for commands that are tested in this process."""

from dispatcher import Dispatcher

app = Dispatcher("reported", set_as_current=False)
app.finalize()
