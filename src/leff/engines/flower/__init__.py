"""The engine `flower`: clients are devices on a network, reached through Flower's SuperLink."""
