"""Starting points: specs that ship with dpuforge, each with a card of what it costs and does on its boards."""
