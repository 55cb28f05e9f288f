print("figure 1, limit 2")
print("good: nothing is held")
