"""From conversations to token ids: chat templates, what is trained on, lengths, packs."""
