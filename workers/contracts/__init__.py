"""The words that api, service and workers share: recipe, events, results, store. No heavy imports, no behaviour."""
